"""Points, dials, grids as text, and what the layers of a pass see of a point."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rheostat import nets
from rheostat.methods import Dual, Noise, Slim
from rheostat.methods.base import Method, Output, Read, Stack
from rheostat.models.tunable import Tunable
from rheostat.nets import Net
from rheostat.points.dial import Dial
from rheostat.points.grid import parse_grid
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Level, Resolved
from support import images_for, make


@dataclass(frozen=True)
class Shift:
    """What the method below derives from its dials."""

    amount: Tensor


@dataclass(frozen=True)
class Brighten(Method):
    """A stranger's method: a dial per row, a structural one, and a derived value of its own."""

    def dials(self) -> tuple[Dial, ...]:
        return Dial("brightness", rest=0.0, high=2.0), Dial("twice", rest=0.0, values=(0.0, 1.0), structural=True)

    def install(self, net: Net) -> None:
        return

    def derive(self, net: Net, at: Resolved) -> Resolved:
        return at.with_(Shift(at.levels["brightness"].table * (1 + at.settings["twice"])))

    def read(self, net: Net, x: Tensor, at: Resolved, then: Read) -> Output:
        return then(x + at.gather(at.of(Shift).amount)[:, None, None, None], at)


def test_a_strangers_method_declares_its_dials_and_reads_them() -> None:
    net = nets.resnet(depth=8, base_width=4, image=(3, 8, 8))
    model = Tunable(net, Stack(Dual(), Noise(), Brighten()))
    x = torch.rand(3, 3, 8, 8)
    levels = torch.tensor([0.0, 0.5, 0.5])
    expected = model(x + 2 * levels[:, None, None, None], Point(robustness=0.3), validate=False)
    found = model(x, Point(brightness=levels, twice=1.0, robustness=0.3))
    assert torch.allclose(found, expected, atol=1e-5)
    both = model(x, Point(brightness=levels, twice=1.0, robustness=torch.tensor([0.3, 0.3, 0.7])))
    assert torch.allclose(both[:2], expected[:2], atol=1e-5)


def test_a_derived_value_is_reached_by_its_type() -> None:
    at = Resolved()
    assert at.get(Shift) is None
    with pytest.raises(LookupError, match="derives a Shift"):
        at.of(Shift)
    first, second = Shift(torch.zeros(1)), Shift(torch.ones(1))
    found = at.with_(first).with_(Level(torch.ones(1))).with_(second)
    assert found.of(Shift) is second
    assert len(found.derived) == 2
    assert at.derived == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.width = 0.5


def test_a_view_turned_is_another_view() -> None:
    model = make("oats", "resnet-8")
    x = images_for(model)
    at = model.resolve(Point(robustness=torch.tensor([0.0, 0.3, 0.3, 1.0, 0.0, 1.0]), width=0.5), x)
    assert at.robustness.table.tolist() == pytest.approx([0.0, 0.3, 1.0])
    assert at.robustness.number is None
    assert at.rows is not None
    assert at.rows.tolist() == [0, 1, 1, 2, 0, 2]
    turned = at.turned(robustness=1.0, width=1.0)
    assert turned.robustness.table.tolist() == [1.0, 1.0, 1.0]
    assert (turned.robustness.number, turned.width, at.width) == (1.0, 1.0, 0.5)


def test_a_phase_is_no_string() -> None:
    model = make("dual", "resnet-8")
    with pytest.raises(ValueError, match=r"Phase\.TRAIN, given 'train'"):
        model.resolve(None, images_for(model), phase="train")
    assert model.resolve(None, images_for(model), phase=Phase.TRAIN).training


@pytest.mark.parametrize(
    "text",
    [
        "robustness=1:0:0.1",
        "robustness=0:1:-0.1",
        "robustness=0:1:0",
        "robustness=",
        "robustness=0,,1",
        "robustness=0:inf:0.1",
        "robustness=nan",
        "robustness=0:1:0.1:2",
        "robustness=0:1:0.3",
        "robustness=0:1:2",
        "=1",
        "robustness=0 robustness=1",
    ],
)
def test_a_grid_without_points_is_an_error_and_not_the_rest_point(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read|gives no value|given twice"):
        parse_grid(text)


def test_a_grid_of_one_point_is_one() -> None:
    assert parse_grid("robustness=0.5:0.5:0.1") == [Point(robustness=0.5)]


def test_a_number_near_a_step_is_that_step() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=8, image=(3, 8, 8)), Stack(Dual(), Slim(widths=(0.3, 1.0))))
    x = torch.rand(2, 3, 8, 8)
    assert model.complete(Point(width=0.1 + 0.2))["width"] == 0.3
    assert torch.equal(model(x, Point(width=0.1 + 0.2)), model(x, Point(width=0.3)))
    with pytest.raises(ValueError, match=r"no position 0\.31; allowed: 0\.3, 1"):
        model(x, Point(width=0.31))


def test_rows_of_a_dial_are_checked() -> None:
    steps = Dial("level", rest=0.0, values=(0.0, 0.3, 1.0))
    assert torch.equal(steps.checked_rows(torch.tensor([0.3 + 1e-7, 1.0])), torch.tensor([0.3, 1.0]))
    for bad in (0.4, float("nan")):
        with pytest.raises(ValueError, match="no position"):
            steps.checked_rows(torch.tensor([0.3, bad]))
    model = make("dual", "resnet-8")
    x = images_for(model, 2)
    with pytest.raises(ValueError, match="from 0 to 1, given nan"):
        model(x, Point(robustness=torch.tensor([0.5, float("nan")])))
    with pytest.raises(ValueError, match="from 0 to 1, given nan"):
        model(x, Point(robustness=float("nan")))


@pytest.mark.parametrize("values", [{"robustness": 0.3, "width": 0.5}, {"robustness": torch.tensor([0.0, 0.7])}, {}])
def test_a_point_survives_copies_and_files(values: dict[str, float | Tensor]) -> None:
    point = Point(**values)
    file = io.BytesIO()
    torch.save({"at": point}, file)
    file.seek(0)
    for again in (copy.deepcopy(point), copy.copy(point), pickle.loads(pickle.dumps(point)), torch.load(file)["at"]):
        assert isinstance(again, Point)
        assert dict(again).keys() == values.keys()
        assert all(torch.equal(torch.as_tensor(again[k]), torch.as_tensor(point[k])) for k in values)
        with pytest.raises(AttributeError, match="immutable"):
            again.robustness = 1.0


def test_a_model_at_a_point_survives_copies_and_files() -> None:
    model = make("oats", "resnet-8")
    at, x = model.at(robustness=0.3, width=0.5), images_for(model)
    file = io.BytesIO()
    torch.save(at, file)
    file.seek(0)
    for again in (copy.deepcopy(at), torch.load(file, weights_only=False)):
        assert again.point == at.point
        assert torch.equal(again(x), at(x))


def test_a_grid_ends_exactly_at_its_end() -> None:
    """A step that is rounded in the text must not give a last value that is another point than the end."""
    assert [p["robustness"] for p in parse_grid("robustness=0:1:0.3333333")][-1] == 1.0
    assert [p["robustness"] for p in parse_grid("robustness=0:1:0.1")][-2:] == [0.9, 1.0]
