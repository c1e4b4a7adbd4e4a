"""Every mistake in a call of `fit` is one line that says what to do, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler
from torch.utils import data as torch_data

import rheostat
from rheostat import data, nets
from rheostat.data import Dataset
from rheostat.methods import compose
from rheostat.models.tunable import Tunable
from rheostat.points.dial_map import DialMap

SMALL: dict[str, Any] = {
    "eps": 0.2,
    "epochs": 2,
    "batch": 64,
    "attack": {"steps": 1},
    "select": {"images": 20, "steps": 1},
    "calibrate_dial": False,
}


def model() -> Tunable:
    return Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("dual"))


@pytest.fixture(scope="module")
def sets() -> tuple[Dataset, Dataset]:
    """(train 128, validation 60) of the embedded digits."""
    train_set, _ = data.load("digits")
    rows = torch.arange(188)
    return train_set.only(rows[:128]), train_set.only(rows[128:])


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-3)


def one_cycle(optimiser: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps + 1)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"epoch": 3}, r"fit has no option 'epoch'; did you mean 'epochs'"),
    ({"eps": 8}, r"eps must be at most 1, in units of \[0, 1\], given 8; did you mean 8/255\?"),
    ({"eps": "16"}, r"did you mean 16/255\?"),
    ({"eps": None}, "attack.eps"),
    ({"batch": 500}, "batch is 500, more than the 128 training images"),
    ({"optimiser": "adam"}, "optimiser must be a torch optimiser or a function"),
    ({"optimiser": torch.optim.SGD([torch.zeros(2)], 0.1)}, "parameters that are not the model's"),
    ({"optimiser": adamw, "lr": 0.1}, "lr belongs to the default optimiser"),
    ({"scheduler": one_cycle, "warmup": 0.1}, "warmup belongs to the default scheduler"),
    ({"loss": "mse"}, "loss must be a function, given 'mse'"),
    ({"loss": F.cross_entropy}, r"returned shape \(\) for 32 rows; it must return one number per row"),
    ({"attack": lambda objective, images, generator: images + 0.1}, "outside|more than eps"),
    ({"callbacks": [rheostat.EarlyStop]}, r"holds the class EarlyStop; give an object: EarlyStop\(\)"),
    ({"callbacks": [object()]}, "not a callback: it has no method"),
    ({"freeze": ["net.block.0"]}, "freeze: 'net.block.0' matches no parameter; did you mean 'net.blocks.0'"),
    ({"freeze": ["*"]}, "nothing is left to train"),
    ({"freeze": "net"}, r"write freeze=\['net'\]"),
    ({"scheduler": one_cycle, "rate_by": "epoch"}, "rate_by belongs to the default scheduler"),
    ({"class_weights": np.ones(3)}, "10 finite numbers"),
    ({"class_weights": {"cat": 1.0}}, "10 finite numbers"),
    ({"accumulate": 3}, "batch 64 does not divide into parts"),
    ({"class_weights": [1.0, 2.0]}, "10 finite numbers"),
    ({"class_weights": "even"}, '"balanced" or one number per class'),
    ({"classes": ["cat", "dog"]}, "classes names 2 classes, the model has 10"),
    ({"steps_per_epoch": 3}, "steps_per_epoch is for iterables"),
    ({"sampler": torch_data.SequentialSampler(range(999))}, "indices from 0 to"),
    ({"init": "nothing-there"}, "no file, run or packaged model 'nothing-there'"),
    ({"select": {"imges": 3}}, "select.imges.*did you mean 'images'"),
    ({"device": "gpu"}, "no device 'gpu'"),
    ({"trades": 6.0, "attack": rheostat.Attack("pgd", 0.2, 1, start=False)}, "this pgd starts at the clean image"),
]


IDS = [f"{i}-{next(iter(options))}" for i, (options, _) in enumerate(MISTAKES)]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=IDS)
def test_a_mistake_is_named(
    options: dict[str, Any], message: str, sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        rheostat.fit(model(), *sets, out=tmp_path, **{**SMALL, **options})
    assert "\n" not in str(error.value)


IMAGES: list[tuple[Callable[[Dataset], Any], str]] = [
    (lambda d: (d.images.float(), d.labels), "expected floats in.*divide them by 255"),
    (lambda d: (d.images.float() / 128 - 1, d.labels), "remove normalisation from the transform"),
    (lambda d: (d.images[..., :6], d.labels), "images of 1 × 8 × 6 and 10 classes, but the model takes 1 × 8 × 8"),
    (lambda d: (d.images, d.labels + 5), "labels from 5 to 14, but the model has 10 classes"),
    (lambda d: (d.images, d.labels.float()), "labels are torch.float32"),
    (lambda d: [(d.images[i, :, :6], 3) for i in range(128)], "image of 1 × 6 × 8, but the model takes 1 × 8 × 8"),
    (lambda d: [(d.images[i], 11) for i in range(128)], "labels from 11 to 11, but the model has 10"),
    (lambda d: [{"a": d.images[i], "label": 1} for i in range(128)], "0 of the columns a, label match, expected 1"),
    (lambda d: [3] * 128, "item .*: item of type int, expected a pair"),
    (lambda d: 5, "cannot read images from a int"),
    (lambda d: [], "is empty"),
    (lambda d: Dataset("other", d.images, d.labels, tuple("abcdefghijk")), "train_set names 11 classes"),
    (lambda d: torch_data.DataLoader(d, batch_size=64, collate_fn=list), "custom collate_fn"),
]


@pytest.mark.parametrize(("make", "message"), IMAGES, ids=[m for _, m in IMAGES])
def test_images_that_the_model_does_not_take(
    make: Callable[[Dataset], Any], message: str, sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        rheostat.fit(model(), make(sets[0]), sets[1], out=tmp_path, **SMALL)
    assert not (tmp_path / "model.safetensors").exists()


def test_nothing_is_chosen_or_trained_on_test(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    test_set = data.load("digits")[1]
    with pytest.raises(ValueError, match="nothing may be fitted or chosen on test"):
        rheostat.fit(model(), sets[0], test_set, out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="nothing is trained on test"):
        rheostat.fit(model(), test_set, sets[1], out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r'rheostat.adopt\(network, "dual"'):
        rheostat.fit(torch.nn.Linear(2, 2), *sets, out=tmp_path, **SMALL)  # type: ignore[arg-type]


def test_a_refused_call_leaves_the_model_as_it_was(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """It had lost its dial map, its points and its weights before the checkpoint was found to be another run's."""
    quick = {**SMALL, "epochs": 1, "max_steps": 1}
    rheostat.fit(model(), *sets, out=tmp_path, **quick)
    kept, other = model(), model().state_dict()
    kept.points = {"safe": kept.complete({"robustness": 1.0})}
    kept.dial_map = DialMap((0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    before = {k: v.clone() for k, v in kept.state_dict().items()}
    for refused, message in (
        ({"lr": 0.01}, "another recipe or other options"),
        ({"class_weights": [1.0]}, "class_weights"),
        ({"optimiser": "adam"}, "optimiser must be a torch optimiser"),
        ({"scheduler": "step", "fresh": True}, "scheduler must be a torch scheduler"),
    ):
        with pytest.raises(ValueError, match=message):
            rheostat.fit(kept, *sets, out=tmp_path, init=other, **{**quick, **refused})
    assert kept.dial_map is not None
    assert list(kept.points) == ["safe"]
    assert all(torch.equal(v, before[k]) for k, v in kept.state_dict().items())
