"""Logit mixing: a weighted mean of the logits of a standard network and a robust one, formed at inference.

This is the baseline that needs none of the papers: two dedicated models. They share nothing, so training trains both,
the model stores twice the parameters, and between the ends every image costs two passes. It is not an ensemble
against one threat: each end is one network alone. `mix="mixednuts"` is the strongest variant (see `mixednuts`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch

from rheostat.attacks import Objective
from rheostat.methods import mixednuts
from rheostat.methods.base import Attacked, Form, Method, Output, Read, Term
from rheostat.methods.composition import compose_as, register
from rheostat.methods.mixture import mixture, mixture_passes
from rheostat.nets.base import NETS, Net, build
from rheostat.points.dial import Dial
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

MIXES = ("logits", "mixednuts")


def twin_of(net: Net) -> Net:
    """The robust network of a model that mixes two."""
    twin = net.get_submodule("twin")
    assert isinstance(twin, Net)
    return twin


@register
@dataclass(frozen=True)
class Mixing(Method):
    """Declares the dial `robustness` λ: logits (1-λ)·f_standard + λ·f_robust.

    The given network is the standard one, trained on clean images only. `net.twin`, of the same architecture with
    new initial weights (a copy if the network was adopted), is trained on attacked images only. `mix` "mixednuts"
    mixes probabilities instead, with the standard network's logits divided by `temperature`; training is the same.
    """

    mix: str = "logits"
    temperature: float = 0.05

    seam = 3
    claims = "norm bank"
    alone = "its two networks share nothing that another method could condition"

    def __post_init__(self) -> None:
        check_choice(self.name, "mix", self.mix, MIXES)
        if self.temperature <= 0:
            raise ValueError(f"mixing: temperature must be above 0, given {self.temperature:g}")

    def dials(self) -> tuple[Dial, ...]:
        return (Dial(name="robustness", rest=0.0),)

    def install(self, net: Net) -> None:
        least = mixednuts.LEAST_CLASSES
        if self.mix == "mixednuts" and net.classes < least:
            raise ValueError(f"mixednuts needs at least {least} classes, this network has {net.classes}; use mixing")
        spec = getattr(net, "spec", {})
        twin = build(spec) if spec.get("name") in NETS else copy.deepcopy(net)
        twin.to_layout(net.layout)
        net.add_module("twin", twin)
        if self.mix == "mixednuts":
            net.add_module("nonlinearity", mixednuts.Nonlinearity())

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        rows = torch.arange(batch)
        return [Term(rows, Point(robustness=0.0)), Term(rows, Point(robustness=1.0), images="adversarial")]

    def read(self, net: Net, x: torch.Tensor, at: Resolved, then: Read) -> Output:
        def end(y: torch.Tensor, a: Resolved, which: float) -> Output:
            return Output(twin_of(net)(y, a)) if which else then(y, a)

        if self.mix == "logits" or at.phase is not Phase.EVAL:
            return mixture(x, at, end)
        nonlinearity = net.get_submodule("nonlinearity")
        return Output(
            mixednuts.mixed(x, at, lambda y, a, which: end(y, a, which).logits, nonlinearity, self.temperature)
        )

    def forms(self, net: Net) -> dict[str, Form]:
        """Attacks on one network alone, "standard" and "robust", and for MixedNUTS "bypassed"."""

        def part(which: float) -> Form:
            def make(a: Attacked) -> Objective:
                at = a.at.turned(robustness=which).with_(mixednuts.Bypass())
                return replace(a.objective(lambda o: o.logits, at=at), decisive=False)

            return make

        def bypassed(a: Attacked) -> Objective:
            return replace(a.objective(lambda o: o.logits, at=a.at.with_(mixednuts.Bypass())), decisive=False)

        parts = {"standard": part(0.0), "robust": part(1.0)}
        return parts if self.mix == "logits" else {**parts, "bypassed": bypassed}

    def passes(self, point: Point) -> int:
        return mixture_passes(point)

    def misleads(self, point: Point) -> bool:
        """MixedNUTS does: of its sharp parts, a saturated softmax and a nonlinearity, little gradient comes back."""
        return self.mix == "mixednuts"


compose_as(
    "mixednuts",
    "MixedNUTS (Bai et al., TMLR 2024): probabilities of two networks mixed, the robust one's sharpened.",
    Mixing,
    mix="mixednuts",
)
