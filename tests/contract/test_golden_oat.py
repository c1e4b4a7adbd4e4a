"""OAT as straight-line mathematics (METHODS 1): forward, loss, gradients and statistics of one step."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.methods.base import Term
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from straight import (
    BATCH,
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
    signed_step,
    weights_of,
)
from support import plan_of

pytestmark = pytest.mark.usefixtures("double")

SUPPORT = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)


def code(w: Weights, level: Tensor, variant: str) -> Tensor:
    """(n,) λ → (n, d): row j of the orthogonal matrix for the j-th trained value, or cosine features."""
    if variant == "paper":
        places = [min(range(6), key=lambda j: abs(SUPPORT[j] - v)) for v in level.tolist()]
        return torch.stack([w["film_codes.rows"][j] for j in places])
    return torch.stack([torch.ones_like(level), torch.cos(math.pi * level)], 1)


def network(w: Weights, x: Tensor, level: Tensor, *, bank: str, train: bool, variant: str) -> Tensor:
    """Norms of one set, and γ·h + β behind those that the paper conditions (not a shortcut's)."""
    codes = code(w, level, variant)

    def conv(name: str, h: Tensor, stride: int, padding: int) -> Tensor:
        return F.conv2d(h, w[f"{name}.weight"], None, stride, padding)

    def norm(name: str, h: Tensor) -> Tensor:
        own = f"{name}.source.{bank}"
        h = plain_norm(w, own, h, train=train, scale=w[f"{own}.weight"], shift=w[f"{own}.bias"])
        if "shortcut" in name:
            return h
        film = f"{name}.modulations.0"
        hidden = F.leaky_relu(codes @ w[f"{film}.hidden.weight"].T + w[f"{film}.hidden.bias"])
        out = hidden @ w[f"{film}.out.weight"].T + w[f"{film}.out.bias"]
        if variant == "paper":
            out = F.leaky_relu(out)
        gamma, beta = out.chunk(2, 1)
        if variant == "ours":
            gamma = 1 + gamma
        return gamma[:, :, None, None] * h + beta[:, :, None, None]

    return linear(w, "classifier.dense", features(x, conv, norm)[-1])


def straight_step(w: Weights, level: Tensor, variant: str) -> Tensor:
    """mean (1-λ)·CE(x, λ) + λ·CE(x', λ), rows in three groups: λ = 0, clean ones of λ > 0, attacked ones."""
    zero, robust = (level == 0).nonzero()[:, 0], (level > 0).nonzero()[:, 0]
    x, y = IMAGES, LABELS

    def pass_(images: Tensor, rows: Tensor, bank: str, *, train: bool) -> Tensor:
        return network(w, images, level[rows], bank=bank, train=train, variant=variant)

    moved = signed_step(lambda z: ce(pass_(z, robust, "adversarial", train=False), y[robust]), x[robust])
    clean = robust if variant == "paper" else robust[level[robust] < 1]  # rows of λ = 1 weigh 0 there
    total = ce(pass_(x[zero], zero, "clean", train=True), y[zero]).sum()
    total = total + ((1 - level[clean]) * ce(pass_(x[clean], clean, "adversarial", train=True), y[clean])).sum()
    total = total + (level[robust] * ce(pass_(moved, robust, "adversarial", train=True), y[robust])).sum()
    return total / len(x)


def plan(model: Tunable) -> tuple[list[Term], Tensor]:
    """A plan in which some rows have λ = 1, and the λ of every row."""
    for seed in range(50):
        terms = plan_of(model.method, BATCH, torch.Generator().manual_seed(seed))
        level = torch.zeros(BATCH)
        level[terms[-1].rows] = torch.as_tensor(terms[-1].at["robustness"])
        if 1 <= int((level == 1).sum()) <= 3:
            return terms, level
    raise AssertionError("no plan has rows of λ = 1")


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_one_step_is_the_mathematics(variant: str) -> None:
    model = model_of("oat", variant=variant)
    w = weights_of(model)
    terms, level = plan(model)
    compare(model, w, package_step(model, terms), straight_step(w, level, variant))


@pytest.mark.parametrize("fault", [{"ones_clean": False}, {"initialisation": "identity"}])
def test_a_fault_in_the_papers_step_is_noticed(fault: dict[str, object]) -> None:
    model = model_of("oat", variant="paper", **fault)
    w = weights_of(model)
    terms, level = plan(model)
    found = package_step(model, terms)
    with pytest.raises(AssertionError):
        compare(model, w, found, straight_step(w, level, "paper"))


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_the_forward_is_the_mathematics(variant: str) -> None:
    """At every trained λ, by the paper's rule between the norm sets."""
    model = model_of("oat", variant=variant)
    w = {k: v.detach() for k, v in weights_of(model).items()}
    for level in SUPPORT:
        levels = torch.full((BATCH,), level)
        bank = "adversarial" if level else "clean"
        expected = network(w, IMAGES, levels, bank=bank, train=False, variant=variant)
        found = model.between("at-0")(IMAGES, Point(robustness=level))
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_slices_of_the_paper_take_one_unit_as_gamma_and_as_beta() -> None:
    """At half width the first C outputs are γ|β in the public code; ours halves γ and β each."""
    joint, apart = model_of("oats", joint_slices=True), model_of("oats")
    scale, shift = torch.full((1, 2), 2.0), torch.full((1, 2), 3.0)
    for model, first in ((joint, 2), (apart, 4)):
        film = model.get_submodule("net.blocks.0.norm.modulations.0")
        at = model.resolve(Point(robustness=0.3, width=0.5), IMAGES)
        w = weights_of(model)
        features_ = torch.stack([torch.ones(1), torch.cos(math.pi * torch.full((1,), 0.3))], 1)
        name = "blocks.0.norm.modulations.0"
        hidden = F.leaky_relu(features_ @ w[f"{name}.hidden.weight"].T + w[f"{name}.hidden.bias"])
        out = hidden @ w[f"{name}.out.weight"].T + w[f"{name}.out.bias"]
        gamma, beta = 1 + out[:, :2], out[:, first : first + 2]
        found = film(scale, shift, at)
        torch.testing.assert_close(found[0], 2 * gamma, atol=1e-9, rtol=0)
        torch.testing.assert_close(found[1], 3 * gamma + beta, atol=1e-9, rtol=0)
