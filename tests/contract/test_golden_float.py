"""FLOAT as straight-line mathematics (METHODS 3): forward, loss, gradients and statistics of one step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.points.point import Point
from straight import (
    IMAGES,
    LABELS,
    Weights,
    ce,
    compare,
    features,
    linear,
    model_of,
    package_step,
    plain_norm,
    recorded_noise,
    signed_step,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("double")

CONVOLUTIONS = 9


def network(
    w: Weights, x: Tensor, *, bank: str, level: float, draw: Callable[[str], Tensor], train: bool, unbiased: bool
) -> Tensor:
    """Every convolution by W + λ·α·σ·η, norms of one set."""

    def conv(name: str, h: Tensor, stride: int, padding: int) -> Tensor:
        weight = w[f"{name}.weight"]
        if level:
            entries = weight.detach().flatten()
            squares = (entries - entries.mean()).square().sum()
            sigma = (squares / (len(entries) - (1 if unbiased else 0))).sqrt()
            weight = weight + level * w[f"{name}.transforms.0.alpha"] * sigma * draw(name)
        return F.conv2d(h, weight, None, stride, padding)

    def norm(name: str, h: Tensor) -> Tensor:
        own = f"{name}.source.{bank}"
        return plain_norm(w, own, h, train=train, scale=w[f"{own}.weight"], shift=w[f"{own}.bias"])

    return linear(w, "classifier.dense", features(x, conv, norm)[-1])


def straight_step(w: Weights, drawn: list[Tensor], variant: str) -> Tensor:
    """The loss of one step: rows 0, 2, .. are the clean half, rows 1, 3, .. the attacked one."""
    left = iter(drawn)
    unbiased = variant == "paper"

    def pass_(x: Tensor, bank: str, level: float, train: bool) -> Tensor:
        return network(w, x, bank=bank, level=level, draw=lambda _: next(left), train=train, unbiased=unbiased)

    one, two = IMAGES[0::2], IMAGES[1::2]
    y1, y2 = LABELS[0::2], LABELS[1::2]

    def attacked() -> Tensor:
        return signed_step(lambda x: ce(pass_(x, "adversarial", 1.0, train=False), y2), two)

    if variant == "ours":
        moved = attacked()
        first = ce(pass_(one, "clean", 0.0, train=True), y1).mean()
        last = ce(pass_(moved, "adversarial", 1.0, train=True), y2).mean()
        loss = 0.5 * first + 0.5 * last
    else:
        first = ce(pass_(one, "clean", 0.0, train=True), y1).mean()
        second = ce(pass_(two, "adversarial", 0.0, train=True), y2).mean()
        moved = attacked()
        last = ce(pass_(moved, "adversarial", 1.0, train=True), y2).mean()
        loss = 0.25 * first + 0.25 * second + 0.25 * last
    assert next(left, None) is None  # no further noise was drawn
    return loss


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_one_step_is_the_mathematics(variant: str) -> None:
    model = model_of("float", variant=variant)
    w = weights_of(model)
    with recorded_noise() as drawn:
        found = package_step(model)
    assert len(drawn) == 2 * CONVOLUTIONS  # one pass of the attack, one of training
    compare(model, w, found, straight_step(w, drawn, variant))


@pytest.mark.parametrize(
    "fault", [{"late_attack": False}, {"clean_through_adversarial_norm": False}, {"correction": 0}]
)
def test_a_fault_in_the_papers_step_is_noticed(fault: dict[str, object]) -> None:
    model = model_of("float", variant="paper", **fault)
    w = weights_of(model)
    with recorded_noise() as drawn:
        found = package_step(model)
    with pytest.raises(AssertionError):
        compare(model, w, found, straight_step(w, drawn, "paper"))


@pytest.mark.parametrize("level", [0.0, 0.05, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_the_forward_is_the_mathematics(variant: str, level: float) -> None:
    model = model_of("float", variant=variant)
    w = {k: v.detach() for k, v in weights_of(model).items()}
    at = model.resolve(Point(robustness=level), IMAGES, generator=torch.Generator().manual_seed(3))
    found = model.read(IMAGES, at).logits
    generator = torch.Generator().manual_seed(3)

    def draw(name: str) -> Tensor:
        if variant == "ours":
            return w[f"{name}.transforms.0.eta"]
        return torch.randn(w[f"{name}.weight"].shape, generator=generator)

    def of(bank: Weights, name: str) -> Tensor:
        return network(bank, IMAGES, bank=name, level=level, draw=draw, train=False, unbiased=variant == "paper")

    if variant == "paper":
        # Clean norms for every λ below 0.1, noise on for every λ above 0.
        expected = of(w, "clean" if level < 0.1 else "adversarial")
    else:
        expected = of(blended(w, level), "clean")
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def blended(w: Weights, share: float) -> Weights:
    """Weights whose clean norms are the affine maps of both sets mixed, in statistics of 0 and 1."""
    out = dict(w)
    for name in [k.removesuffix(".clean.weight") for k in w if k.endswith(".clean.weight")]:
        scale, shift = 0.0, 0.0
        for bank, part in (("clean", 1 - share), ("adversarial", share)):
            gain = w[f"{name}.{bank}.weight"] / (w[f"{name}.{bank}.running_var"] + 1e-5).sqrt()
            scale = scale + part * gain
            shift = shift + part * (w[f"{name}.{bank}.bias"] - w[f"{name}.{bank}.running_mean"] * gain)
        out[f"{name}.clean.weight"], out[f"{name}.clean.bias"] = scale, shift
        out[f"{name}.clean.running_mean"] = torch.zeros_like(scale)
        out[f"{name}.clean.running_var"] = torch.full_like(scale, 1 - 1e-5)
    return out


def test_the_two_sided_rule_of_the_paper() -> None:
    """2λ below 0.6 and through the clean norms, 2(λ - 0.5) from there on and through the adversarial ones."""
    model = model_of("float", variant="paper", draw="frozen", scale="two-sided", between="at-0.6")
    w = {k: v.detach() for k, v in weights_of(model).items()}
    cases = ((0.3, 0.6, "clean"), (0.55, 1.1, "clean"), (0.6, 0.2, "adversarial"), (1.0, 1.0, "adversarial"))
    for level, amount, bank in cases:
        expected = network(
            w,
            IMAGES,
            bank=bank,
            level=amount,
            draw=lambda name: w[f"{name}.transforms.0.eta"],
            train=False,
            unbiased=True,
        )
        torch.testing.assert_close(model(IMAGES, Point(robustness=level)), expected, atol=1e-7, rtol=0)
