"""RDI-Nets as straight-line mathematics (METHODS 6): forward and policy, loss, gradients and statistics of one step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.points.point import Point
from straight import (
    IMAGES,
    LABELS,
    Weights,
    block,
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

pytestmark = pytest.mark.usefixtures("double")

OPTIONS: dict[str, dict[str, object]] = {"ours": {"defence": "average"}, "paper": {"variant": "paper"}}
"""Ours as its recipes have it, and the published one."""


def network(w: Weights, x: Tensor, *, train: bool, variant: str) -> list[Tensor]:
    """The logits of the two side exits (after the first two stages) and of the network's own end."""

    def conv(name: str, h: Tensor, stride: int, padding: int) -> Tensor:
        return F.conv2d(h, w[f"{name}.weight"], None, stride, padding)

    def norm(name: str, h: Tensor) -> Tensor:
        own = f"{name}.source"
        return plain_norm(w, own, h, train=train, scale=w[f"{own}.weight"], shift=w[f"{own}.bias"])

    def first(h: Tensor) -> Tensor:
        h = F.max_pool2d(h, 2)
        if variant == "ours":
            return F.relu(norm("exits.0.pieces.1.norm", conv("exits.0.pieces.1.conv", h, 1, 1)))
        h = F.relu(norm("exits.0.pieces.1.norm", conv("exits.0.pieces.1.conv", h, 1, 2)))
        return norm("exits.0.pieces.2.norm", conv("exits.0.pieces.2.conv", F.max_pool2d(h, 2), 1, 1))

    def second(h: Tensor) -> Tensor:
        if variant == "ours":
            return F.relu(norm("exits.1.pieces.1.norm", conv("exits.1.pieces.1.conv", h, 1, 1)))
        return block(F.max_pool2d(h, 2), "exits.1.pieces.1", conv, norm, 1, same=True)

    _, one, two, last = features(x, conv, norm)
    return [
        linear(w, "exits.0.classifier.dense", first(one)),
        linear(w, "exits.1.classifier.dense", second(two)),
        linear(w, "classifier.dense", last),
    ]


def straight_step(w: Weights, variant: str) -> Tensor:
    """Σ over exits of half the clean and half the attacked mean; attacked by max-average, or by the mean of exits."""

    def losses(x: Tensor, *, train: bool) -> list[Tensor]:
        return [ce(logits, LABELS) for logits in network(w, x, train=train, variant=variant)]

    if variant == "paper":
        made = [signed_step(lambda x, k=k: losses(x, train=False)[k], IMAGES) for k in range(3)]
        summed = torch.stack([torch.stack(losses(x, train=False)).sum(0) for x in made])
        best = summed.argmax(0).tolist()
        moved = torch.stack([made[k][row] for row, k in enumerate(best)])
        assert len(set(best)) > 1  # else the choice per example is not seen
    else:
        moved = signed_step(lambda x: torch.stack(losses(x, train=False)).mean(0), IMAGES)
    clean = sum(loss.mean() for loss in losses(IMAGES, train=True))
    attacked = sum(loss.mean() for loss in losses(moved, train=True))
    return 0.5 * clean + 0.5 * attacked


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_one_step_is_the_mathematics(variant: str) -> None:
    model = model_of("rdi", **OPTIONS[variant])
    w = weights_of(model)
    compare(model, w, package_step(model), straight_step(w, variant))


@pytest.mark.parametrize("fault", [{"defence": "main"}, {"defence": "average"}])
def test_a_fault_in_the_papers_step_is_noticed(fault: dict[str, object]) -> None:
    model = model_of("rdi", variant="paper", **fault)
    w = weights_of(model)
    found = package_step(model)
    with pytest.raises(AssertionError):
        compare(model, w, found, straight_step(w, "paper"))


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_the_forward_and_the_policy_are_the_mathematics(variant: str) -> None:
    model = model_of("rdi", **OPTIONS[variant])
    w = {k: v.detach() for k, v in weights_of(model).items()}
    exits = network(w, IMAGES, train=False, variant=variant)
    for depth, logits in enumerate(exits, 1):
        torch.testing.assert_close(model(IMAGES, Point(depth=depth)), logits, atol=1e-9, rtol=0)
    entropy = torch.stack([-(F.softmax(e, 1) * F.log_softmax(e, 1)).sum(1) for e in exits[:2]])
    # Thresholds between the rows, so that some leave by each exit.
    cut = entropy.median(1).values + 1e-6
    model.net.get_buffer("thresholds").copy_(cut)
    for share in (0.0, 0.9, 1.0):
        takes = [next((k for k in (0, 1) if entropy[k, row] < share * cut[k]), 2) for row in range(len(IMAGES))]
        expected = torch.stack([exits[k][row] for row, k in enumerate(takes)])
        torch.testing.assert_close(model(IMAGES, Point(exit=share)), expected, atol=1e-9, rtol=0)
        if share == 1:
            assert len(set(takes)) > 1
