"""Images that a model does not take are refused at its door, before they give numbers."""

from __future__ import annotations

import pytest
import torch

import rheostat
from rheostat import Point
from rheostat.attacks import named
from rheostat.data import load

GOOD = torch.rand(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (GOOD[0], "add the batch dimension"),
        (torch.rand(2, 3, 32, 32), "takes images of 1 × 8 × 8, given 3 × 32 × 32"),
        (torch.rand(2, 1, 1, 1), "given 1 × 1 × 1"),
        ((GOOD * 255).to(torch.uint8), r"write x.float\(\) / 255"),
        (GOOD * 255, "write x / 255"),
        (GOOD - 0.5, "the model normalises its input itself"),
        (GOOD.clone().fill_(float("nan")), "given nan"),
    ],
)
def test_wrong_images_are_refused(x: torch.Tensor, message: str) -> None:
    model = rheostat.load("oat-digits")
    with pytest.raises(ValueError, match=message):
        model(x, Point(robustness=0.5))
    with pytest.raises(ValueError, match=message):
        model.at(robustness=0.5)(x)


def test_a_loop_may_leave_the_check_out_and_an_empty_batch_passes() -> None:
    model = rheostat.load("oat-digits")
    assert torch.equal(model(GOOD, validate=False), model(GOOD))
    assert torch.equal(model(2 * GOOD, validate=False), model.at().unchecked()(2 * GOOD))
    assert model(GOOD[:0]).shape == (0, 10)


def test_weights_that_are_not_finite_are_refused_everywhere(tmp_path) -> None:
    model = rheostat.load("oat-digits")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match="infinite or NaN"):
        rheostat.save(tmp_path / "m.safetensors", model)
    assert not (tmp_path / "m.safetensors").exists()
    with pytest.raises(ValueError, match="infinite or NaN"):
        rheostat.evaluate(model, "robustness=0", [named("fgsm", eps=0.1)], load("digits")[1])
    with pytest.raises(ValueError, match="infinite or NaN"):
        rheostat.export(model, rheostat.models.About(), tmp_path / "m.onnx", at=Point(robustness=0.0))


def test_data_of_another_shape_is_refused_before_it_is_measured() -> None:
    net = rheostat.nets.resnet(depth=8, base_width=4, image=(3, 32, 32))
    model = rheostat.Tunable(net, rheostat.compose("dual"))
    with pytest.raises(
        ValueError, match="digits has images of 1 × 8 × 8 and 10 classes, but the model takes 3 × 32 × 32"
    ):
        rheostat.evaluate(model, "robustness=0", [named("fgsm", eps=0.1)], load("digits")[1])


def test_a_damaged_weight_is_found_when_the_file_is_loaded(tmp_path) -> None:
    """One flipped byte of a weight: the file is whole, the numbers measured on it are not this model's."""
    path = rheostat.save(tmp_path / "m.safetensors", rheostat.load("oat-digits"))
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 0x01
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="their hash differs"):
        rheostat.load(path)
