"""FLOATS as straight-line mathematics (METHODS 4): forward, one step, and the average that regrowth follows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.models.tunable import Tunable
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

NOISE = {"ours": ("transforms.0", "transforms.1"), "paper": ("transforms.1", "transforms.0")}
"""Where a convolution's noise and mask lie: behind one another in the order in which they act."""


def network(
    w: Weights,
    x: Tensor,
    *,
    bank: str,
    level: float,
    draw: Callable[[str], Tensor],
    train: bool,
    variant: str,
    dense: Weights | None = None,
) -> Tensor:
    """Ours: mask·(W + λ·α·σ·η), σ over active weights. The public code: mask·W + λ·α·σ·η, σ over all.

    Into `dense` go the kernels as leaves that the loss can be differentiated by at masked places too.
    """
    noise, mask = NOISE[variant]

    def conv(name: str, h: Tensor, stride: int, padding: int) -> Tensor:
        keep = w[f"{name}.{mask}.paths.0.mask"]
        weight = w[f"{name}.weight"] * keep
        if dense is not None:
            # Zero, and beside the weights: its gradient is that of the whole kernel.
            leaf = dense.setdefault(name, torch.zeros_like(weight).requires_grad_(True))
            weight = weight + leaf
        if level:
            entries = w[f"{name}.weight"].detach()
            if variant == "ours":
                entries = entries[keep.bool()]
            count = entries.numel() - (1 if variant == "paper" else 0)
            sigma = ((entries - entries.mean()).square().sum() / count).sqrt()
            added = level * w[f"{name}.{noise}.alpha"] * sigma * draw(name)
            weight = weight + (added * keep if variant == "ours" else added)
        return F.conv2d(h, weight, None, stride, padding)

    def norm(name: str, h: Tensor) -> Tensor:
        own = f"{name}.source.{bank}"
        return plain_norm(w, own, h, train=train, scale=w[f"{own}.weight"], shift=w[f"{own}.bias"])

    return linear(w, "classifier.dense", features(x, conv, norm)[-1])


def straight_step(w: Weights, drawn: list[Tensor], variant: str, dense: Weights | None = None) -> Tensor:
    """The loss of one step, in FLOAT's order (see test_golden_float)."""
    left = iter(drawn)
    x1, x2, y1, y2 = IMAGES[0::2], IMAGES[1::2], LABELS[0::2], LABELS[1::2]

    def loss(x: Tensor, y: Tensor, bank: str, level: float, *, train: bool = True) -> Tensor:
        leaves = dense if train else None
        draw = lambda _: next(left)  # noqa: E731
        return ce(network(w, x, bank=bank, level=level, draw=draw, train=train, variant=variant, dense=leaves), y)

    def moved() -> Tensor:
        return signed_step(lambda x: loss(x, y2, "adversarial", 1.0, train=False), x2)

    if variant == "ours":
        attacked = moved()
        return 0.5 * loss(x1, y1, "clean", 0.0).mean() + 0.5 * loss(attacked, y2, "adversarial", 1.0).mean()
    total = 0.25 * loss(x1, y1, "clean", 0.0).mean() + 0.25 * loss(x2, y2, "adversarial", 0.0).mean()
    return total + 0.25 * loss(moved(), y2, "adversarial", 1.0).mean()


def stepped(variant: str, **fault: object) -> tuple[Tunable, Weights, float, list[Tensor]]:
    """A model after the package's step, what its weights were, the loss and the draws of noise."""
    model = model_of("floats", variant=variant, **fault)
    w = weights_of(model)
    with recorded_noise() as drawn:
        found = package_step(model)
    return model, w, found, drawn


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_one_step_is_the_mathematics(variant: str) -> None:
    model, w, found, drawn = stepped(variant)
    dense: Weights = {}
    loss = straight_step(dict(w), drawn, variant, dense)
    kernels = torch.autograd.grad(loss, list(dense.values()))
    straight = dict(w)
    loss = straight_step(straight, drawn, variant)
    if variant == "paper":
        # Masked places of a stored weight get the dense gradient there.
        hold = {f"{name}.weight": g for name, g in zip(dense, kernels, strict=True)}
        for name, parameter in model.net.named_parameters():
            if name in hold:
                torch.testing.assert_close(parameter.grad, hold[name], atol=1e-7, rtol=0)
                parameter.grad.mul_((w[name] != 0).to(hold[name]))
    compare(model, straight, found, loss)
    model.method.after_step(model.net, 0.1)
    for name, gradient in zip(dense, kernels, strict=True):
        path = model.net.get_submodule(f"{name}.{NOISE[variant][1]}.paths.0")
        torch.testing.assert_close(path.average, 0.1 * gradient, atol=1e-8, rtol=0)
        assert path.average[path.mask == 0].abs().max() > 1e-6
        assert not model.net.get_submodule(name).weight[path.mask == 0].any()


@pytest.mark.parametrize("fault", [{"under_masks": True}, {"correction": 0}, {"late_attack": False}])
def test_a_fault_in_the_papers_step_is_noticed(fault: dict[str, object]) -> None:
    _, w, found, drawn = stepped("paper", **fault)
    if "under_masks" in fault:  # noise then lies before the mask
        w = {
            k.replace("transforms.0", "t").replace("transforms.1", "transforms.0").replace(".t.", ".transforms.1."): v
            for k, v in w.items()
        }
    loss = straight_step(w, drawn, "paper")
    assert found != pytest.approx(float(loss.detach()), abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_the_forward_is_the_mathematics(variant: str, level: float) -> None:
    model = model_of("floats", variant=variant, draw="frozen", between="at-0")
    w = {k: v.detach() for k, v in weights_of(model).items()}
    noise = NOISE[variant][0]
    expected = network(
        w,
        IMAGES,
        bank="adversarial" if level else "clean",
        level=level,
        draw=lambda name: w[f"{name}.{noise}.eta"],
        train=False,
        variant=variant,
    )
    torch.testing.assert_close(model(IMAGES, Point(robustness=level)), expected, atol=1e-7, rtol=0)
    if variant == "paper" and level:
        # The noise undoes the sparsity: the energy of it all is that over active weights, as ours has it.
        weight, keep = w["blocks.1.conv1.weight"], w["blocks.1.conv1.transforms.0.paths.0.mask"]
        dense_energy = weight.numel() * weight.std() ** 2
        ours_energy = keep.sum() * weight[keep.bool()].std() ** 2
        assert float(dense_energy / ours_energy) == pytest.approx(1, abs=0.1)
