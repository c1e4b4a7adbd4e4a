"""The contract that every method × net must pass (the grid is made by walking the package)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from rheostat.attacks import Attack
from rheostat.methods import COMPOSITIONS, parse_method
from rheostat.methods.base import row_loss
from rheostat.models import artifact
from rheostat.models.costs import exit_costs, observe
from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from support import factory_of, images_for, make, plan_of

LEVELS = (0.0, 0.3, 1.0)


def grid(model: Tunable) -> list[Point]:
    """A few points of a model: every dial's ends and a place between."""
    points = [Point()]
    for dial in model.dials.values():
        points += [Point(**{dial.name: v}) for v in dial.values or LEVELS]
    return points


def test_repr_rebuilds(model: Tunable) -> None:
    assert repr(parse_method(repr(model.method))) == repr(model.method)
    assert parse_method(repr(model.method)) == model.method


def test_rest_point_is_every_dial_at_rest(model: Tunable) -> None:
    x = images_for(model)
    rest = Point(**{d.name: d.rest for d in model.dials.values()})
    assert torch.equal(model(x), model(x, rest))


def test_every_parameter_gets_a_gradient(model: Tunable) -> None:
    x = images_for(model, 12)
    y = torch.arange(12) % 10
    generator = torch.Generator().manual_seed(0)
    model.zero_grad()
    for term in plan_of(model.method, 12, generator):
        rows = term.rows
        at = model.resolve(term.at, x[rows], phase=Phase.TRAIN, generator=generator)
        row_loss(model.read(x[rows], at), y[rows]).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_each_dial_changes_the_output(model: Tunable) -> None:
    x = images_for(model)
    for dial in model.dials.values():
        low, high = (dial.values or (dial.low, dial.high))[:: len(dial.values or (0, 1)) - 1]
        a, b = (model(x, Point(**{dial.name: v})) for v in (low, high))
        assert (a - b).abs().max() > 1e-4


def test_cost_falls_along_spending_dials_and_is_flat_along_others(model: Tunable) -> None:
    for dial in model.dials.values():
        macs = [
            observe(model, model.net.image, Point(**{dial.name: v})).macs / model.method.passes(Point(**{dial.name: v}))
            for v in sorted(dial.values or LEVELS)
        ]
        if dial.saves:
            # The image decides: it saves by leaving early, and pays for the heads it passes where it does not.
            assert exit_costs(model, Point(**{dial.name: 1.0})).macs[0] < macs[0] < macs[-1]
        elif dial.name == "depth":
            # A head of an early exit may cost more than the block and the head that come next.
            assert macs[0] < macs[-1]
        elif dial.spends:
            assert macs == sorted(macs)
            assert macs[0] < macs[-1]
        else:
            assert len(set(macs)) == 1
        assert macs[0] > 0


def test_examples_do_not_mix_in_eval(model: Tunable) -> None:
    x = images_for(model)
    other = x.clone()
    other[1:] = torch.rand_like(other[1:])
    for point in grid(model):
        assert torch.allclose(model(x, point)[0], model(other, point)[0], atol=1e-5, rtol=1e-5)


def test_a_mixed_batch_equals_one_by_one(model: Tunable) -> None:
    x = images_for(model)
    for dial in model.dials.values():
        levels = torch.tensor([0.0, 0.1, 0.5, 1.0, 0.0, 0.33])
        if dial.structural:
            with pytest.raises(ValueError, match=dial.name):
                model(x, Point(**{dial.name: levels}))
            continue
        mixed = model(x, Point(**{dial.name: levels}))
        for row, level in enumerate(levels.tolist()):
            alone = model(x[row : row + 1], Point(**{dial.name: level}))[0]
            assert torch.allclose(mixed[row], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_leaves_no_trace_and_stays_in_bounds(model: Tunable, norm: str) -> None:
    x = images_for(model)
    y = torch.arange(len(x)) % 10
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = {n: m.training for n, m in model.named_modules()}
    model.zero_grad()
    for phase in (Phase.EVAL, Phase.ATTACK):
        for point in grid(model):
            attack = Attack("pgd", 0.1, 3, norm=norm, restarts=2)
            objective = model.objective(y, point, phase=phase)
            moved = attack(objective, x, torch.Generator().manual_seed(0))
            delta = (moved - x).flatten(1)
            size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
            assert float(size.max()) <= 0.1 + 1e-6
            assert float(moved.min()) >= 0
            assert float(moved.max()) <= 1
            assert float(size.max()) > 0.01
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert modes == {n: m.training for n, m in model.named_modules()}
    assert all(p.grad is None for p in model.parameters())


def test_save_and_load_give_the_same_bits(model: Tunable, tmp_path) -> None:
    x = images_for(model)
    path = artifact.save(tmp_path / "model.safetensors", model)
    again = artifact.load(path, net=factory_of(model))
    assert again.method == model.method
    for point in grid(model):
        assert torch.equal(model(x, point), again(x, point))


def test_an_unknown_dial_is_named(model: Tunable) -> None:
    with pytest.raises(ValueError, match="robustnes'"):
        model(images_for(model), Point(robustnes=0.3))


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """The interpreter changes threads after microseconds, so that two passes are surely cut into one another."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switches")
def test_two_threads_at_two_points_agree_with_serial_runs(model: Tunable) -> None:
    """Two threads pass at two points while a third switches between training and evaluation."""
    x = images_for(model)
    points = (grid(model) * 2)[:2] if len(grid(model)) == 1 else [grid(model)[1], grid(model)[-1]]
    with torch.no_grad():
        expected = [model(x, p) for p in points]
    passes = 3
    start = threading.Barrier(3)
    wrong: list[str] = []

    def work(number: int) -> None:
        for _ in range(passes):
            start.wait(60)
            with torch.no_grad():
                if not torch.equal(model(x, points[number]), expected[number]):
                    wrong.append(f"point {number}")

    def switch() -> None:
        for number in range(passes):
            model.train()
            start.wait(60)
            if number:  # the first passes run in training mode from end to end
                model.eval()
                model.train()

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)] + [threading.Thread(target=switch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_point_ignores_train_mode(model: Tunable) -> None:
    x = images_for(model)
    at = model.at()
    before = at(x)
    model.train()
    at.train()
    assert torch.equal(at(x), before)
    assert not at.training


def test_a_point_exports_as_eager(model: Tunable) -> None:
    x = images_for(model, 3)
    for point in grid(model)[-1:]:
        at = model.at(point)
        program = torch.export.export(at, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2, max=64)}})
        y = images_for(model, 5)
        assert torch.allclose(program.module()(y), at(y), atol=1e-4)


@pytest.mark.parametrize("paper", [p for p in COMPOSITIONS.names() if p not in ("pgd-at", "rdi")])
def test_the_live_dial_exports_as_a_tensor(paper: str) -> None:
    model = make(paper, "resnet-8")

    class Live(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor, robustness: torch.Tensor) -> torch.Tensor:
            return self.model(x, Point(robustness=robustness))

    batch = torch.export.Dim("batch", min=2, max=64)
    x, level = images_for(model, 4), torch.tensor([0.0, 0.2, 1.0, 0.5])
    program = torch.export.export(Live(), (x, level), dynamic_shapes={"x": {0: batch}, "robustness": {0: batch}})
    y, other = images_for(model, 3), torch.tensor([0.7, 0.0, 0.1])
    assert torch.allclose(program.module()(y, other), Live()(y, other), atol=1e-4)
