"""`fit`: the loop of the recipes with one's own model and images; every form of images gives the same weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import data as torch_data

import rheostat
from rheostat import data, nets
from rheostat.data import DataError, Dataset
from rheostat.data.conversion import Form
from rheostat.data.given import opened
from rheostat.methods import compose
from rheostat.models.tunable import Tunable
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.files import read_tensors
from rheostat.training.feed import Feed
from rheostat.training.loop import build, train
from rheostat.training.options import sorted_out
from rheostat.training.recipe import load_recipe
from support import Break, Dies

SMALL: dict[str, Any] = {
    "eps": 0.2,
    "epochs": 2,
    "batch": 64,
    "attack": {"steps": 1},
    "select": {"images": 20, "steps": 1},
    "calibrate_dial": False,
    "augment": "crop",
    "padding": 1,
}


def model(paper: str = "dual", seed: int = 0) -> Tunable:
    torch.manual_seed(seed)
    return Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose(paper))


@pytest.fixture(scope="module")
def sets() -> tuple[Dataset, Dataset]:
    """(train 200, validation 60) of the embedded digits."""
    train_set, _ = data.load("digits")
    rows = torch.arange(260)
    return train_set.only(rows[:200]), train_set.only(rows[200:])


class Items(torch_data.Dataset[tuple[Tensor, int]]):
    """A map-style data set of float images, as torchvision's ToTensor makes them."""

    def __init__(self, held: Dataset) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.held.images[index].float() / 255, int(self.held.labels[index])


class Drawn(Items):
    """The same with a transform that draws at random."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return image.roll(int(torch.randint(0, 8, ())), -1), label


def weights(trained: Tunable) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in trained.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def fitted(given: Any, sets: tuple[Dataset, Dataset], out: Path, **options: Any) -> dict[str, Tensor]:
    return weights(rheostat.fit(model(), given, sets[1], out=out, **{**SMALL, **options}).model)


@pytest.fixture(scope="module")
def expected(sets: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights from the images in memory."""
    return fitted(sets[0], sets, tmp_path_factory.mktemp("held"))


def hugging_face(held: Dataset) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Array3D(shape=held.image, dtype="uint8"),
            "label": datasets.ClassLabel(names=list(held.classes)),
        }
    )
    return datasets.Dataset.from_dict({"image": held.images.numpy(), "label": held.labels.tolist()}, features=features)


FORMS = {
    "tensors": lambda d: (d.images, d.labels),
    "floats": lambda d: (d.images.float() / 255, d.labels),
    "arrays": lambda d: (d.images.permute(0, 2, 3, 1).numpy(), d.labels.numpy()),
    "tensor dataset": lambda d: torch_data.TensorDataset(d.images, d.labels),
    "map-style": Items,
    "loader": lambda d: torch_data.DataLoader(Items(d), batch_size=64, shuffle=True),
    "hugging face": hugging_face,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_gives_the_same_weights(
    form: str, sets: tuple[Dataset, Dataset], expected: dict[str, Tensor], tmp_path: Path
) -> None:
    more = {"batch": 64}
    given = FORMS[form](sets[0])
    found = rheostat.fit(model(), given, Items(sets[1]), out=tmp_path, **{**SMALL, **more})
    assert equal(weights(found.model), expected)
    if form == "hugging face":
        assert found.form.classes == sets[0].classes


def test_workers_and_memory_change_nothing(
    sets: tuple[Dataset, Dataset], expected: dict[str, Tensor], tmp_path: Path
) -> None:
    assert equal(fitted(Items(sets[0]), sets, tmp_path / "a", workers=2), expected)
    assert equal(fitted(sets[0], sets, tmp_path / "b", in_memory=False), expected)
    assert equal(fitted(Items(sets[0]), sets, tmp_path / "c", in_memory=True), expected)


def test_random_transforms_are_of_the_runs_own_stream(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = fitted(Drawn(sets[0]), sets, tmp_path / "a")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = fitted(Drawn(sets[0]), sets, tmp_path / "b", workers=1)
    assert equal(first, second)
    assert not equal(first, fitted(Drawn(sets[0]), sets, tmp_path / "c", seed=1))
    torch.manual_seed(2)
    assert torch.equal(state, torch.get_rng_state())


class Stream(torch_data.IterableDataset[tuple[Tensor, int]]):
    """An iterable whose order and images are drawn at random."""

    def __init__(self, held: Dataset) -> None:
        self.held = held

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for index in torch.randperm(len(self.held)).tolist():
            yield self.held.images[index].roll(int(torch.randint(0, 8, ())), -1), int(self.held.labels[index])


@pytest.mark.parametrize("form", [Drawn, Stream, lambda d: d])
@pytest.mark.parametrize("parts", [1, 2])
def test_ranks_share_what_one_reads(form: Any, parts: int, sets: tuple[Dataset, Dataset]) -> None:
    """And a run continued at a step reads what an undisturbed one reads there."""
    shape = Form((1, 8, 8), sets[0].classes)
    settings, _ = sorted_out({"name": "x"}, {**SMALL, "augment": "crop", "padding": 1})

    def read(ranks: Ranks, first: int) -> list[tuple[Tensor, Tensor]]:
        given, _ = opened(form(sets[0]), shape, "x")
        feed = Feed(given, shape, settings, ranks, 3, torch.device("cpu"), parts=parts)
        return list(itertools.islice(feed.pieces(first), (5 - first) * parts))

    whole = read(Ranks(), 0)
    shares = [read(Ranks(rank, 2), 0) for rank in range(2)]
    for place, (images, labels) in enumerate(whole):
        assert torch.equal(images, torch.cat([share[place][0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[place][1] for share in shares]))
    for (images, labels), (again, same) in zip(whole[4 * parts :], read(Ranks(), 4), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


def test_an_iterable_of_examples_or_of_batches(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    held = sets[0]
    examples = [(held.images[i], held.labels[i]) for i in range(len(held))]
    batched = [(held.images[i : i + 50], held.labels[i : i + 50]) for i in range(0, 200, 50)]

    class Again:
        def __init__(self, items: list[Any]) -> None:
            self.items = items

        def __iter__(self) -> Iterator[Any]:
            return iter(self.items)

    one = fitted(Again(examples), sets, tmp_path / "a", steps_per_epoch=3)
    assert equal(one, fitted(Again(batched), sets, tmp_path / "b", steps_per_epoch=3))
    with pytest.raises(ValueError, match=r"ended after 200 examples of epoch 1; 4 steps of 64 need 256"):
        fitted(Again(examples), sets, tmp_path / "c", steps_per_epoch=4)
    with pytest.raises(ValueError, match="give steps_per_epoch"):
        fitted(Again(examples), sets, tmp_path / "d")
    with pytest.raises(DataError, match="can be read only once"):
        fitted(iter(examples), sets, tmp_path / "e", steps_per_epoch=3)


@pytest.mark.parametrize("form", ["map-style", "iterable", "held"])
def test_a_stopped_run_continues_at_its_step_to_the_same_weights(
    form: str, sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    make = {"map-style": Drawn, "iterable": Stream, "held": lambda d: d}[form]
    more = {"steps_per_epoch": 3} if form == "iterable" else {}

    with pytest.raises(Break):
        fitted(make(sets[0]), sets, tmp_path / "a", callbacks=[Dies(5)], checkpoint_seconds=0, **more)
    assert read_tensors(tmp_path / "a" / "checkpoint.safetensors")[1]["progress"]["step"] == 4
    continued = fitted(make(sets[0]), sets, tmp_path / "a", **more)
    assert equal(continued, fitted(make(sets[0]), sets, tmp_path / "b", **more))


def test_a_recipe_is_a_way_to_write_the_arguments_down(tmp_path: Path) -> None:
    """The same settings by `train` and by `fit` give the same bits."""
    changes = ["train.epochs=1", "train.batch=64", "attack.steps=1", "select.images=20", "select.steps=1"]
    recipe = load_recipe("oat-digits", changes=[*changes, "calibrate_dial=false"])
    done = train(recipe, out=tmp_path / "recipe")
    assert done.splits is not None
    same = recipe.model_dump(include={"train", "attack", "select", "device"})
    run = rheostat.fit(
        build(recipe, done.splits.train),
        done.splits.train,
        done.splits.fit,
        out=tmp_path / "fit",
        eps=recipe.attack.eps,
        attack={"steps": 1},
        select=same["select"],
        augment="crop",
        padding=1,
        calibrate_dial=False,
        **same["train"],
    )
    assert equal(weights(done.model), weights(run.model))
    assert [e["loss"] for e in run.history] == [e["loss"] for e in done.progress.epochs]


class Plain(nn.Module):
    """A network in plain PyTorch, whose `view` asks for the memory layout that it was written for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().view(x.size(0), -1))


@pytest.mark.filterwarnings("ignore:no model file is written:RuntimeWarning")
def test_the_ten_lines(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """An own network is trained, evaluated and plotted; the same call again trains nothing."""
    torch.manual_seed(0)
    adopted = rheostat.adopt(Plain(), "dual", image=(1, 8, 8))
    before = weights(adopted)
    run = rheostat.fit(adopted, *sets, out=tmp_path / "own", device="cpu", **SMALL)
    assert run.model is adopted
    assert not equal(before, weights(adopted))
    assert [line["epoch"] for line in run.history] == [1, 2]
    assert run.flags == []
    assert repr(run).startswith(f"Fitted({tmp_path / 'own'}: 2 epochs, score 0.")
    rows = run.evaluate(Items(sets[1]), "robustness=0,1", "fgsm", examples=20)
    assert {row.run for row in rows} == {"own"}
    assert {row.n for row in rows} == {20}
    figure = rheostat.plot(rows)
    assert figure._repr_png_()[:4] == b"\x89PNG"  # type: ignore[attr-defined]
    torch.manual_seed(1)
    again = rheostat.fit(
        rheostat.adopt(Plain(), "dual", image=(1, 8, 8)), *sets, out=tmp_path / "own", device="cpu", **SMALL
    )
    assert equal(weights(again.model), weights(adopted))
