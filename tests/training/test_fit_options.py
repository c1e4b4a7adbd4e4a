"""Every option of `fit` does what it says, in a run that is continued too."""

from __future__ import annotations

import functools
import inspect
import json
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils import data as torch_data

import rheostat
from rheostat import data, nets
from rheostat.attacks import Objective
from rheostat.data import Dataset
from rheostat.methods import compose
from rheostat.models.artifact import load_with
from rheostat.models.tunable import Tunable
from rheostat.runtime.files import read_tensors
from rheostat.runtime.interrupts import Interrupted
from rheostat.training import checkpoint
from rheostat.training.optimisers import made_scheduler
from rheostat.training.settings import Settings
from support import Break, Dies

SMALL: dict[str, Any] = {
    "eps": 0.2,
    "epochs": 2,
    "batch": 64,
    "attack": {"steps": 1},
    "select": {"images": 20, "steps": 1},
    "calibrate_dial": False,
}


def model(paper: str = "dual", seed: int = 0, classes: int = 10) -> Tunable:
    torch.manual_seed(seed)
    return Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8), classes=classes), compose(paper))


@pytest.fixture(scope="module")
def sets() -> tuple[Dataset, Dataset]:
    """(train 128, validation 60) of the embedded digits."""
    train_set, _ = data.load("digits")
    rows = torch.arange(188)
    return train_set.only(rows[:128]), train_set.only(rows[128:])


Weights = dict[str, Tensor]
Fit = Callable[..., Weights]


@pytest.fixture
def fitted(sets: tuple[Dataset, Dataset], tmp_path: Path) -> Fit:
    """The weights after a short run with some options, each in a folder of its own."""

    def run(name: str = "a", given: Any = None, **options: Any) -> Weights:
        paper = options.pop("paper", "dual")
        done = rheostat.fit(model(paper), given or sets[0], sets[1], out=tmp_path / name, **{**SMALL, **options})
        return {k: v.clone() for k, v in done.model.state_dict().items()}

    return run


def equal(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-3)


def one_cycle(optimiser: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps + 1)


def plateau(optimiser: torch.optim.Optimizer, steps: int) -> lr_scheduler.ReduceLROnPlateau:
    return lr_scheduler.ReduceLROnPlateau(optimiser, "max", patience=0, factor=0.5)


def squared(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).square().sum(1)


def jump(objective: Objective, images: Tensor, generator: torch.Generator) -> Tensor:
    return (images + 0.2 * torch.randn(images.shape, generator=generator).sign()).clamp(0, 1)


def still(objective: Objective, images: Tensor, generator: torch.Generator) -> Tensor:
    return images


CHANGES: dict[str, dict[str, Any]] = {
    "optimiser": {"optimiser": adamw},
    "scheduler": {"scheduler": one_cycle},
    "plateau": {"scheduler": plateau},
    "loss": {"loss": squared},
    "own attack": {"attack": jump},
    "an Attack": {"attack": rheostat.Attack("fgsm", 0.1), "eps": 0.1},
    "accumulate": {"accumulate": 2},
    "freeze": {"freeze": ["net.blocks.0"]},
    "sampler": {"sampler": torch_data.SequentialSampler(range(128))},
    "weighted": {"sampler": torch_data.WeightedRandomSampler([1.0] * 64 + [2.0] * 64, 128)},
    "class weights": {"class_weights": [1.0] * 9 + [3.0]},
    "balanced": {"class_weights": "balanced"},
    "smaller early images": {"early_size": 0.75},
}


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_the_weights_and_a_killed_run_continues_with_it(option: str, fitted: Fit) -> None:
    """To the same bits, with the optimiser's state and the scheduler where they were."""
    plain, whole = fitted("plain"), fitted("whole", **CHANGES[option])
    assert all(bool(v.isfinite().all()) for v in whole.values())
    assert not equal(plain, whole)

    with pytest.raises(Break):
        fitted("killed", callbacks=[Dies(4)], checkpoint_seconds=0, **CHANGES[option])
    assert equal(whole, fitted("killed", **CHANGES[option]))


def test_a_frozen_parameter_stays_and_takes_gradients_again(fitted: Fit, sets: tuple[Dataset, Dataset]) -> None:
    before = model().state_dict()
    found = fitted(freeze=["net.blocks.0", "net.*.bias"])
    frozen = [k for k, _ in model().named_parameters() if k.startswith("net.blocks.0.") or k.endswith(".bias")]
    assert frozen
    assert all(torch.equal(found[k], before[k]) for k in frozen)
    trained = [k for k, _ in model().named_parameters() if k not in frozen]
    assert any(not torch.equal(found[k], before[k]) for k in trained)


def test_a_fine_tuned_model_starts_from_the_file_and_makes_new_dials(
    sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    quick = {**SMALL, "epochs": 1, "max_steps": 1, "lr": 1e-9}
    first = rheostat.fit(model("pgd-at", seed=1), *sets, out=tmp_path / "a", **quick)
    with pytest.warns(UserWarning, match=r"init: \d+ of the model's \d+ weights are not in"):
        second = rheostat.fit(model("oat", seed=2), *sets, out=tmp_path / "b", init=tmp_path / "a", **quick)
    old, new = first.model.state_dict(), second.model.state_dict()
    assert torch.allclose(old["net.blocks.0.conv.weight"], new["net.blocks.0.conv.weight"], atol=1e-6)
    for side in ("clean", "adversarial"):
        assert torch.allclose(old["net.blocks.0.norm.source.weight"], new[f"net.blocks.0.norm.source.{side}.weight"])
    few = sets[0].only(sets[0].labels < 3)
    few = Dataset("few", few.images, few.labels, ("0", "1", "2"))
    with pytest.warns(UserWarning, match=r"not loaded.*dense.weight \(10, 16\) instead of \(3, 16\)"):
        rheostat.fit(model(classes=3), few, few, out=tmp_path / "c", init=old, **{**quick, "batch": 16})
    with pytest.raises(ValueError, match="init: no weight of the state dict fits"):
        rheostat.fit(model(), *sets, out=tmp_path / "d", init={"x": torch.zeros(2)}, **quick)


@pytest.mark.filterwarnings("ignore:not calibrated")
@pytest.mark.parametrize(("paper", "at_start"), [("rdi", {"thresholds"}), ("mixednuts", {"scale", "power", "bias"})])
def test_a_second_fit_forgets_what_was_fitted_to_the_first_weights(
    paper: str, at_start: set[str], sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    used, fresh = model(paper), model(paper).state_dict()
    fitted = {k: v for k, v in used.named_buffers() if k.rpartition(".")[2] in at_start}
    assert len(fitted) == len(at_start)
    for value in fitted.values():
        value.fill_(0.5)
    seen: dict[str, Tensor] = {}

    class First(rheostat.Callback):
        def on_step(self, run: Any, line: Any) -> None:
            seen.update({k: v.clone() for k, v in fitted.items()})

    rheostat.fit(used, *sets, out=tmp_path, **{**SMALL, "epochs": 1, "max_steps": 1, "callbacks": [First()]})
    assert all(torch.equal(v.nan_to_num(-1), fresh[k].nan_to_num(-1)) for k, v in seen.items())
    assert len(seen) == len(at_start)


def test_callbacks_are_called_and_may_stop(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    seen: list[str] = []

    class Notes:
        def on_step(self, run: Any, values: Any) -> None:
            assert values.keys() == {"step", "total", "seconds", "loss", "lr"}
            seen.append(f"step {values['step']} of {values['total']}")

        def on_epoch(self, run: Any, line: Any) -> None:
            assert run.history[-1] is line
            seen.append(f"epoch {line['epoch']}")

        def on_evaluate(self, run: Any, rows: Any) -> None:
            seen.append(f"{len(rows)} rows")

    run = rheostat.fit(model(), *sets, out=tmp_path / "a", callbacks=[Notes()], **SMALL)
    run.evaluate(sets[1], [{"robustness": 0.5}], "fgsm", examples=10)
    assert seen == ["step 1 of 4", "step 2 of 4", "epoch 1", "step 3 of 4", "step 4 of 4", "epoch 2", "2 rows"]
    options = {**SMALL, "epochs": 6, "lr": 1e-9, "select": {"images": 20, "steps": 1, "tail": 1}}
    options["callbacks"] = [rheostat.EarlyStop(2, least=1.0)]
    stopped = rheostat.fit(model(), *sets, out=tmp_path / "b", **options)
    assert len(stopped.history) == 3
    assert "not risen for 2" in stopped.progress.stopped
    assert (tmp_path / "b" / "model.safetensors").is_file()
    again = rheostat.fit(model(seed=3), *sets, out=tmp_path / "b", **options)
    assert equal(dict(again.model.state_dict()), dict(stopped.model.state_dict()))


@pytest.mark.filterwarnings("ignore:no model file is written:RuntimeWarning")
def test_accumulation_is_the_mean_of_the_parts(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """On a network without norms, under an attack that moves nothing, two halves are the batch."""

    def run(name: str, parts: int) -> Weights:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        net = rheostat.adopt(plain, "pgd-at", image=(1, 8, 8))
        options = {**SMALL, "epochs": 1, "accumulate": parts, "attack": still}
        done = rheostat.fit(net, *sets, out=tmp_path / name, **options)
        return dict(done.model.state_dict())

    whole, halves = run("whole", 1), run("halves", 2)
    assert all(torch.allclose(whole[k], halves[k], atol=1e-6) for k in whole)


def test_a_checkpoint_of_other_options_is_refused(fitted: Fit, tmp_path: Path) -> None:
    fitted("a")
    with pytest.raises(ValueError, match="belongs to another recipe or other options"):
        fitted("a", optimiser=adamw)
    fitted("a", optimiser=adamw, fresh=True)
    about = read_tensors(tmp_path / "a" / "checkpoint.safetensors")[1]
    assert about["progress"]["step"] == 4
    quick: dict[str, Any] = {"max_steps": 1, "name": "b"}
    fitted(optimiser=functools.partial(torch.optim.AdamW, lr=1e-3), **quick)
    fitted(optimiser=functools.partial(torch.optim.AdamW, lr=1e-3), **quick)
    with pytest.raises(ValueError, match="belongs to another recipe or other options"):
        fitted(optimiser=functools.partial(torch.optim.AdamW, lr=3e-3), **quick)


@pytest.mark.filterwarnings("ignore:not calibrated:UserWarning")
def test_a_dial_that_cannot_be_calibrated_is_lambda(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    options = {**SMALL, "calibrate_dial": True, "max_steps": 1, "epochs": 1}
    run = rheostat.fit(model(), *sets, out=tmp_path, report=events.append, **options)
    (line,) = [e for e in events if e["event"] == "calibration-failed"]
    assert line["why"].endswith("its dial is λ")
    assert run.flags == ["calibration-failed"]
    assert rheostat.load(tmp_path).dial_map is None
    assert run.evaluate(sets[1], [{"robustness": 1.0}], "fgsm", examples=10)[0].dial == "lambda"
    assert json.loads((tmp_path / "recipe.json").read_text())["train"]["max_steps"] == 1


def test_the_file_says_what_trained_the_model(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    rheostat.fit(model(), *sets, out=tmp_path, **{**SMALL, "max_steps": 1, "attack": jump, "optimiser": adamw})
    _, about = load_with(tmp_path)
    assert about.provenance["recipe"]["attack"]["kind"].endswith(".jump")
    assert about.provenance["options"]["optimiser"].endswith(".adamw")
    assert about.provenance["dataset"] == "digits"
    assert about.classes == sets[0].classes
    assert about.threat == {"norm": "linf", "eps": 0.2}


def test_the_options_are_documented() -> None:
    """Every field of the options is in their docstring."""
    text = inspect.getdoc(rheostat.FitOptions) or ""
    for name in rheostat.FitOptions.__dataclass_fields__:
        assert f"`{name}`" in text, name


def test_validation_and_evaluation_follow_the_sampler_of_a_loader(
    sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """A split by SubsetRandomSampler selected the weights on all images, most of them those of the training."""
    train_set = sets[0]
    images = torch_data.TensorDataset(train_set.images, train_set.labels)
    last = torch_data.DataLoader(images, 16, sampler=torch_data.SubsetRandomSampler(range(100, 128)))
    quick = {**SMALL, "epochs": 1, "max_steps": 1, "select": {"images": 128, "steps": 1}}
    loader = rheostat.fit(model(), train_set, last, out=tmp_path / "loader", **quick)
    alone = rheostat.fit(model(), train_set, train_set.only(torch.arange(100, 128)), out=tmp_path / "alone", **quick)
    assert loader.history[0]["calibrate"] == alone.history[0]["calibrate"]
    assert {row.n for row in loader.evaluate(last, [{"robustness": 0.5}], "fgsm")} == {28}


def test_gradients_that_the_optimiser_does_not_hold_are_those_of_one_step(
    sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """They summed up over the run, and the clipped norm of all gradients with them."""
    tuned = model()
    last = [p for n, p in tuned.named_parameters() if ".dense." in n]
    others = next(p for n, p in tuned.named_parameters() if "conv" in n)
    seen: list[Tensor] = []

    class Looks:
        def on_step(self, run: Any, values: Any) -> None:
            assert others.grad is not None
            seen.append(others.grad.clone())

    options = {**SMALL, "epochs": 2, "attack": still, "sampler": torch_data.SequentialSampler(range(64))}
    optimiser = torch.optim.SGD(last, lr=1e-12)
    rheostat.fit(tuned, *sets, out=tmp_path, optimiser=optimiser, callbacks=[Looks()], **options)
    assert float(seen[0].norm()) > 0
    assert float(seen[1].norm()) < 1.5 * float(seen[0].norm())


def test_a_parameter_without_gradients_stays_under_an_optimiser_that_holds_it(
    sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """A gradient of zeros from an earlier step let it decay."""
    tuned = model()
    held = [p for n, p in tuned.named_parameters() if n.startswith("net.blocks.0.")]
    before = [p.detach().clone() for p in held]
    for parameter in held:
        parameter.grad = torch.zeros_like(parameter)
        parameter.requires_grad_(False)
    optimiser = torch.optim.AdamW(tuned.parameters(), lr=1e-2)
    rheostat.fit(tuned, *sets, out=tmp_path, optimiser=optimiser, **{**SMALL, "epochs": 1, "max_steps": 1})
    assert all(torch.equal(p, was) for p, was in zip(held, before, strict=True))


def test_a_run_that_breaks_off_leaves_no_compiled_pass(
    sets: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    tuned = model()
    with pytest.raises(Break):
        rheostat.fit(tuned, *sets, out=tmp_path, callbacks=[Dies(1)], **{**SMALL, "device": {"compile": True}})
    assert "read" not in vars(tuned)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "chainable": lambda optimiser: lr_scheduler.ExponentialLR(optimiser, 0.5),
    "one-cycle": lambda optimiser: lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=5),
    "chained": lambda optimiser: lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(optimiser, 0.5)]),
    "plateau": lambda optimiser: lr_scheduler.ReduceLROnPlateau(optimiser, "max", patience=0, threshold=1.0),
}


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_objects_continue_in_the_process_that_began_the_run(
    kind: str, as_function: bool, sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """An optimiser and a scheduler that are already at the step of the checkpoint made its steps again."""

    class Rates:
        def __init__(self, stop: int = 0) -> None:
            self.found: list[float] = []
            self.stop = stop

        def on_step(self, run: Any, values: Any) -> None:
            self.found.append(values["lr"])
            if values["step"] == self.stop:
                signal.raise_signal(signal.SIGINT)

    def start() -> tuple[Tunable, dict[str, Any]]:
        tuned = model()
        optimiser = torch.optim.SGD(tuned.parameters(), lr=0.05)
        make = SCHEDULERS[kind]
        given = (lambda optimiser, steps: make(optimiser)) if as_function else make(optimiser)
        return tuned, {**SMALL, "epochs": 4, "max_steps": 5, "optimiser": optimiser, "scheduler": given}

    whole, parts = Rates(), Rates(3)
    tuned, options = start()
    rheostat.fit(tuned, *sets, out=tmp_path / "whole", callbacks=[whole], **options)
    tuned, options = start()
    with pytest.raises(Interrupted):
        rheostat.fit(tuned, *sets, out=tmp_path / "parts", callbacks=[parts], **options)
    rheostat.fit(tuned, *sets, out=tmp_path / "parts", callbacks=[parts], **options)
    assert parts.found == whole.found
    assert len(set(whole.found)) > 1
    if not as_function:
        with pytest.raises(ValueError, match=r"the scheduler has made \d steps, but the run is at 0; give a new"):
            rheostat.fit(tuned, *sets, out=tmp_path / "parts", fresh=True, **options)


def test_given_names_of_classes_hold_for_all_images(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    names = tuple("abcdefghij")
    train_set, val_set = (replace(images, classes=names[::-1]) for images in sets)
    short = {**SMALL, "epochs": 1, "max_steps": 1}
    rheostat.fit(model(), train_set, val_set, out=tmp_path / "a", classes=names, **short)
    assert load_with(tmp_path / "a")[1].classes == names
    with pytest.raises(ValueError, match="val_set has the classes of the model in another order"):
        rheostat.fit(model(), replace(train_set, classes=names), val_set, out=tmp_path / "b", **short)


def test_a_run_that_continues_lets_go_of_its_checkpoint_and_a_finished_one_steps_no_scheduler(
    sets: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    held: list[bool] = []

    def remembered(*given: Any, **more: Any) -> checkpoint.Stored:
        found = original(*given, **more)
        read.append(weakref.ref(found))
        return found

    class Looks(rheostat.Callback):
        def on_step(self, run: Any, values: Any) -> None:
            held.extend(reference() is not None for reference in read)
            if values["step"] == 1:
                signal.raise_signal(signal.SIGINT)

    def made(optimiser: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
        counted.append(steps)
        return lr_scheduler.ExponentialLR(optimiser, 0.5)

    counted: list[int] = []
    original = checkpoint.read
    monkeypatch.setattr(checkpoint, "read", remembered)
    options: dict[str, Any] = {**SMALL, "epochs": 1, "max_steps": 2, "scheduler": made, "callbacks": [Looks()]}
    with pytest.raises(Interrupted):
        rheostat.fit(model(), *sets, out=tmp_path, **options)
    rheostat.fit(model(), *sets, out=tmp_path, **options)
    assert held == [False]
    assert counted == [2, 2]
    rheostat.fit(model(), *sets, out=tmp_path, **options)
    assert counted == [2, 2]


def test_a_new_run_starts_from_the_rate_that_the_user_set() -> None:
    """After an earlier scheduler, the first rate of that one replaced it."""
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    lr_scheduler.ExponentialLR(optimiser, 0.5)
    optimiser.param_groups[0]["lr"] = 0.02
    for done, rate in ((0, 0.02), (1, 0.05)):
        made_scheduler(
            lambda optimiser, steps: lr_scheduler.ExponentialLR(optimiser, 0.5),
            optimiser,
            Settings.model_construct(),
            total=4,
            per_epoch=2,
            done=done,
            epochs=[],
        )
        assert optimiser.param_groups[0]["lr"] == pytest.approx(rate)


class Stops(rheostat.Callback):
    """Stops at a step, or at the end of an epoch, and remembers the average of the weights there."""

    def __init__(self, *, step: int = 0, epoch: int = 0) -> None:
        self.step, self.epoch = step, epoch
        self.average: Weights = {}

    def on_step(self, run: Any, values: Any) -> None:
        if values["step"] == self.step:
            self.average = {k: v.clone() for k, v in run.state.average.items()}
            run.stop("enough")

    def on_epoch(self, run: Any, line: Any) -> None:
        if line["epoch"] == self.epoch:
            run.stop("enough")


def test_a_run_that_stops_before_the_tail_keeps_its_best_weights(sets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """It kept the raw last weights, and threw the average away."""
    options = {**SMALL, "epochs": 9, "ema": 0.9, "select": {"images": 60, "steps": 1}}
    early = rheostat.fit(model(), *sets, out=tmp_path / "a", callbacks=[Stops(epoch=3)], **options)
    scores = [line["score"] for line in early.history]
    assert len(scores) == 3
    assert early.progress.best_score == max(scores)
    assert early.progress.best_epoch == scores.index(max(scores)) + 1
    # At a rate of almost 0 both are equal but for the statistics of norms, and the average wins a tie.
    options |= {"lr": 1e-12, "select": {"images": 2, "steps": 1, "every": 5}}
    stops = Stops(step=3)
    unscored = rheostat.fit(model(), *sets, out=tmp_path / "b", callbacks=[stops], **options)
    assert unscored.progress.best_epoch == 2
    assert unscored.progress.best_score >= 0
    assert equal(dict(unscored.model.state_dict()), stops.average)
    again = rheostat.fit(model(seed=4), *sets, out=tmp_path / "b", callbacks=[stops], **options)
    assert equal(dict(again.model.state_dict()), stops.average)


def test_the_batch_of_a_loader_is_divided_and_class_weights_may_be_an_array(
    sets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """The default batch of 128 was checked instead of the loader's, and an array was compared with None."""
    loader = torch_data.DataLoader(torch_data.TensorDataset(sets[0].images, sets[0].labels), 60)
    options = {k: v for k, v in SMALL.items() if k != "batch"} | {"epochs": 1, "accumulate": 3}
    weights = np.linspace(1, 2, 10)
    run = rheostat.fit(model(), loader, sets[1], out=tmp_path, class_weights=weights, **options)
    assert run.settings.train.batch == 60
    assert run.about.provenance["options"]["class_weights"] == str(weights.tolist())
    with pytest.raises(ValueError, match="belongs to another recipe or other options"):
        rheostat.fit(model(), loader, sets[1], out=tmp_path, class_weights=weights + 1, **options)
