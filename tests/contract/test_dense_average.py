"""Every stack with masks: after one step the running average holds the gradient of the dense kernel, as by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rheostat import nets
from rheostat.methods import COMPOSITIONS, Dual, Exits, Experts, Film, Masks, Noise, Slim
from rheostat.methods.base import Stack, row_loss
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv, Parts, Transform, append, seats
from rheostat.nn.masking import BETA, Masking, PathChoice
from rheostat.points.phase import Phase
from support import plan_of

STACKS = {
    "film+noise+masks": Stack(Dual(), Film(), Noise(), Masks()),
    "film+noise+masks, the paper's": Stack(Dual(), Film(), Noise(under_masks=False), Masks(gradients="dense")),
    "film+noise+channels": Stack(Dual(), Film(), Noise(), Masks(structure="channel", density=0.5)),
    "film+slim+noise+masks": Stack(Dual(), Film(), Slim(), Noise(), Masks()),
    "film+noise+experts": Stack(Dual(), Film(), Noise(), Experts()),
    "exits+noise+masks": Stack(Exits(), Dual(), Noise(), Masks()),
    "masks": Stack(Masks()),
}
NAMED = {
    f"{name} ({variant})": compose(name, variant=variant)
    for name in COMPOSITIONS.names()
    for variant in ("ours", "paper")
    if {Masks, Experts} & set(COMPOSITIONS.get(name).parts)
    and (variant == "ours" or COMPOSITIONS.get(name).paper is not None)
}


class Probe(Transform):
    """Zero kernels added behind masks and noise, one a path: their gradient is that of the dense kernel."""

    order = 26

    def __init__(self, weight: torch.Tensor, paths: int) -> None:
        super().__init__()
        self.leaves = nn.ParameterList([nn.Parameter(torch.zeros_like(weight)) for _ in range(paths)])

    def forward(self, parts: Parts, seat: object, x: torch.Tensor, at) -> Parts:
        number = int(len(self.leaves) > 1 and at.of(PathChoice).second)
        return (*parts, (self.leaves[number], None))


@pytest.mark.parametrize("stack", [*STACKS.values(), *NAMED.values()], ids=[*STACKS, *NAMED])
def test_the_average_is_the_dense_gradient_by_hand(stack: Stack) -> None:
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(3, 8, 8)), stack)
    probed = []
    for conv in seats(model.net, Conv):
        for masking in [t for t in conv.transforms if isinstance(t, Masking)]:
            probe = Probe(conv.weight.detach(), len(masking.paths))
            append(conv, probe)
            probed.append((masking, probe))
    assert probed
    x, y = torch.rand(12, 3, 8, 8), torch.arange(12) % 10
    for i, term in enumerate(plan_of(model.method, 12, torch.Generator().manual_seed(0))):
        at = model.resolve(term.at, x[term.rows], phase=Phase.TRAIN, generator=torch.Generator().manual_seed(i))
        for value in term.given:
            at = at.with_(value)
        loss = row_loss(model.read(x[term.rows], at), y[term.rows])
        (loss * term.weight).sum().div(12).backward()
    model.method.after_step(model.net, 0.1)
    fed = 0
    for masking, probe in probed:
        for number, leaf in enumerate(probe.leaves):
            path = masking.path(number)
            if leaf.grad is None:
                assert not path.average.any()
                continue
            expected = (1 - BETA) * leaf.grad
            assert torch.allclose(path.average, expected, atol=1e-5 * float(expected.abs().max()) + 1e-9, rtol=1e-4)
            fed += int(expected.abs().max() > 1e-6)
    assert fed > 0
