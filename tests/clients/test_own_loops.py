"""Loops of others that take the loss from `training_step` reach the weights that `fit` reaches, in fp32."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import data as torch_data

import rheostat
from rheostat import data, nets
from rheostat.methods import compose
from rheostat.models.tunable import Tunable

ATTACK = rheostat.Attack("pgd", 0.5, 2, 0.3, "l2")
RATE = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def fresh() -> Tunable:
    torch.manual_seed(0)
    return Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("oat"))


def images() -> torch_data.TensorDataset:
    train_set, _ = data.load("digits")
    return torch_data.TensorDataset(train_set.images[:200].float() / 255, train_set.labels[:200])


def loader() -> torch_data.DataLoader[Any]:
    return torch_data.DataLoader(images(), batch_size=64, drop_last=True)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of `fit` on the same batches: the loader's own order, one epoch at a constant rate."""
    run = rheostat.fit(
        fresh(),
        loader(),
        images(),
        out=tmp_path_factory.mktemp("fit"),
        epochs=1,
        attack=ATTACK,
        schedule="constant",
        select={"images": 20, "steps": 1},
        calibrate_dial=False,
        **RATE,
    )
    return weights(run.model)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6, rtol=1e-6), name
    start = fresh().state_dict()
    assert any(not torch.allclose(tensor, start[name], atol=1e-3) for name, tensor in expected.items())


def test_plain_pytorch(expected: dict[str, Tensor]) -> None:
    model = fresh()
    optimiser = torch.optim.SGD(model.parameters(), **RATE)
    for step, batch in enumerate(loader()):
        optimiser.zero_grad()
        rheostat.training_step(model, batch, ATTACK, step=step).backward()
        optimiser.step()
    assert_equal(weights(model), expected)


def test_lightning(expected: dict[str, Tensor]) -> None:
    # torchvision, which it imports, cannot register its compiled operators beside the CPU build of torch.
    for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
        sys.modules.setdefault(name, ModuleType(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = fresh()

        def training_step(self, batch: Any, number: int) -> Tensor:
            return rheostat.training_step(self.model, tuple(batch), ATTACK, step=self.global_step)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.model.parameters(), **RATE)

    module = Module()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few workers
        lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, **quiet).fit(module, loader())
    assert_equal(weights(module.model), expected)


def test_accelerate(expected: dict[str, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = fresh()
    model, optimiser, batches = accelerator.prepare(model, torch.optim.SGD(model.parameters(), **RATE), loader())
    for step, batch in enumerate(batches):
        optimiser.zero_grad()
        loss = rheostat.training_step(accelerator.unwrap_model(model), batch, ATTACK, step=step)
        accelerator.backward(loss)
        optimiser.step()
    assert_equal(weights(accelerator.unwrap_model(model)), expected)


def test_a_call_in_train_mode_warns_once_and_says_what_to_call() -> None:
    model, x = fresh(), images()[:4][0]
    model(x)  # never asked to train
    model.train()
    with torch.no_grad():
        model(x)
    with pytest.warns(UserWarning, match=r"rheostat\.training_step\(model, \(images, labels\)"):
        model(x)
    model(x)
    model.train()
    rheostat.training_step(model, images()[:8], ATTACK, step=0)
    model.eval()
    model(x)


def test_what_a_step_does_not_take(tmp_path: Path) -> None:
    x, y = images()[:8]
    model = fresh()

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

    for given, batch, message in (
        (Wrapped(), (x, y), "takes the model itself, not a Wrapped"),
        (torch.nn.Linear(2, 2), (x, y), r"takes a Tunable, given a Linear"),
        (model, (x * 255, y), "pixels lie in"),
        (model, (x, y + 9), "labels from 9 to 17"),
        (model, (x, y[:3]), "labels must be 8 whole numbers"),
        (model, x, r"batch must be \(images, labels\)"),
    ):
        with pytest.raises(ValueError, match=message):
            rheostat.training_step(given, batch, ATTACK, step=0)  # type: ignore[arg-type]


def test_the_same_step_draws_the_same_and_leaves_the_generator() -> None:
    batch, model = images()[:32], fresh()
    before = torch.get_rng_state()
    first = rheostat.training_step(model, batch, ATTACK, step=3)
    assert torch.equal(before, torch.get_rng_state())
    assert first.shape == ()
    assert float(rheostat.training_step(fresh(), batch, ATTACK, step=3).detach()) == float(first.detach())
    assert float(rheostat.training_step(fresh(), batch, ATTACK, step=4).detach()) != float(first.detach())
