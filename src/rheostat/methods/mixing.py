"""Logit mixing: a standard network and a robust one side by side, their logits mixed at inference.

What a user would do without any of these papers: two dedicated models and a weighted mean. Nothing
is shared, so training is that of the two, twice the parameters are stored, and between the ends every
image costs two passes. Not an ensemble against one threat: each end is one network alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from rheostat.methods.base import Method, Output, Read, Term
from rheostat.methods.composition import register
from rheostat.methods.mixture import mixture, mixture_passes
from rheostat.nets.base import NETS, Net, build
from rheostat.points.dial import Dial
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved


def twin_of(net: Net) -> Net:
    """The robust network that stands beside the standard one."""
    twin = net.get_submodule("twin")
    assert isinstance(twin, Net)
    return twin


@register
@dataclass(frozen=True)
class Mixing(Method):
    """Declares the dial `robustness` λ: logits (1-λ)·f_standard + λ·f_robust.

    The given network is the standard one, trained on clean images alone; `net.twin`, of the same
    architecture and drawn anew (a copy where the network was adopted), is trained on attacked ones.
    """

    seam = 3
    claims = "norm bank"
    alone = "its two networks share nothing that another method could condition"

    def dials(self) -> tuple[Dial, ...]:
        return (Dial(name="robustness", rest=0.0),)

    def install(self, net: Net) -> None:
        spec = getattr(net, "spec", {})
        twin = build(spec) if spec.get("name") in NETS else copy.deepcopy(net)
        twin.to_layout(net.layout)
        net.add_module("twin", twin)

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        rows = torch.arange(batch)
        return [Term(rows, Point(robustness=0.0)), Term(rows, Point(robustness=1.0), images="adversarial")]

    def read(self, net: Net, x: torch.Tensor, at: Resolved, then: Read) -> Output:
        def end(y: torch.Tensor, a: Resolved, which: float) -> Output:
            return Output(twin_of(net)(y, a)) if which else then(y, a)

        return mixture(x, at, end)

    def passes(self, point: Point) -> int:
        return mixture_passes(point)
