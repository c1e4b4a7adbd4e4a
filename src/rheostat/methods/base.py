"""The seam between papers and the rest: Method, Term, Output, Stack.

A method is a frozen dataclass: its fields are its hyper-parameters and its repr rebuilds it; weights
live in the network. It gives parts to seats (`install`) and hooks into a pass; `Stack` composes
methods, ordered by seam, so that every order of writing builds the same network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.attacks import Candidates, Objective
from rheostat.attacks.objective import Loss
from rheostat.nets.base import Net
from rheostat.points.dial import Dial
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved


@dataclass(frozen=True)
class Output:
    """What one pass gives: the logits (B, K) that count, and those of side exits, if any."""

    logits: Tensor
    exits: tuple[Tensor, ...] = ()
    taken: Tensor | None = None
    """(B,) which exit each row left by, where exits are live."""


Read = Callable[[Tensor, Resolved], Output]


@dataclass(frozen=True)
class Attacked:
    """What a form of attack is made of: the pass of the whole model, a point, labels (B,), a loss."""

    read: Read
    at: Resolved
    labels: Tensor
    loss: Loss

    def objective(self, view: Callable[[Output], Tensor], *, at: Resolved | None = None) -> Objective:
        """The objective on a view of the pass's output, at the point of the attack (or another)."""
        at = at or self.at

        def forward(images: Tensor, rows: Tensor | None) -> Tensor:
            return view(self.read(images, at if rows is None else at.only(rows)))

        return Objective(forward, self.labels, self.loss)


Form = Callable[[Attacked], Objective | Candidates]


@dataclass(frozen=True)
class Term:
    """One group of rows of a training step: which rows, at which point, on which images.

    `rows` is a long index into the global batch. The loss of the step is the sum over terms of
    Σ weight·loss / B_global; a term is its own normalisation group. `weight` is a number or one per
    row of the term. `objective` names what the attack of an adversarial term maximises.
    """

    rows: Tensor
    at: Point = field(default_factory=Point)
    images: str = "clean"
    objective: str = "direct"
    weight: float | Tensor = 1.0

    def mine(self, first: int, last: int) -> Tensor:
        """(n,) which of this term's rows lie in [first, last)."""
        return (self.rows >= first) & (self.rows < last)

    def local(self, first: int, last: int) -> Term:
        """The part of this term in rows [first, last), renumbered from 0 (one rank's share)."""
        mine = self.mine(first, last)
        weight = self.weight[mine] if isinstance(self.weight, Tensor) else self.weight
        return replace(self, rows=self.rows[mine] - first, at=self.at.only(mine), weight=weight)


class Method:
    """Abstract way of conditioning a network. Subclasses are frozen dataclasses.

    Two methods are abstract: `dials` and `install`. The other hooks have the defaults below.
    """

    seam: ClassVar[int] = 50
    """Where in the order of installation: networks 3, exits 5 (they add seats, which all others then
    treat), norm banks 10, widths 20, modulations 30, noise 40, masks 50, experts 60."""
    multiplies: ClassVar[bool] = False
    """Whether `plan` repeats the terms of others: then it comes after all that make terms."""
    claims: ClassVar[str] = ""
    """A seam that only one method of a stack may claim."""
    alone: ClassVar[str] = ""
    """Why this method composes with no other, where it does not."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Dials that another method of the stack must declare."""

    @property
    def name(self) -> str:
        """The name used in messages."""
        return type(self).__name__.lower()

    def dials(self) -> tuple[Dial, ...]:
        """The dials this method declares."""
        raise TypeError(f"{type(self).__name__} does not say which dials it declares")

    def install(self, net: Net) -> None:
        """Give the seats of the network their parts; ValueError where it lacks a seat."""
        raise TypeError(f"{type(self).__name__} does not say how it is installed")

    def derive(self, net: Net, at: Resolved) -> Resolved:
        """Add to a resolved point what layers need beside the dials themselves."""
        return at

    def plan(self, terms: list[Term], batch: int, generator: torch.Generator) -> list[Term]:
        """The terms of a training step over `batch` rows, from those of the methods before."""
        return terms

    def read(self, net: Net, x: Tensor, at: Resolved, then: Read) -> Output:
        """The pass itself; `then` is the pass of the methods before."""
        return then(x, at)

    def path(self, u: float) -> tuple[float, float]:
        """(λ, blend of the norm sets) at the place u in [0, 1] between clean and robust."""
        return u, u

    def undecayed(self, net: Net) -> list[nn.Parameter]:
        """Parameters that take no weight decay."""
        return []

    def after_step(self, net: Net, progress: float) -> None:
        """Called after every optimiser step; progress in [0, 1] of the whole training."""

    def after_epoch(self, net: Net, progress: float) -> None:
        """Called after every epoch."""

    def finish(self, net: Net) -> None:
        """Called once, on the weights that are kept: drop what only training needed."""

    def passes(self, point: Point) -> int:
        """How many passes of the network a point costs."""
        return 1

    def randomised(self, point: Point) -> bool:
        """Whether a pass at this point draws noise (evaluated by expectation over draws only)."""
        return False

    def live(self, point: Point) -> bool:
        """Whether the image decides which operators run at this point (early exit)."""
        return False

    def undivided(self) -> str:
        """Why ranks cannot share a step of this method, where they cannot; else empty."""
        return ""

    def forms(self, net: Net) -> dict[str, Form]:
        """What an attack may maximise beside the logits of the point ("direct"), by name."""
        return {}

    def bound(self, net: Net) -> Method:
        """This method with every option that follows from the network filled in."""
        return self


@dataclass(frozen=True)
class Stack(Method):
    """Methods composed. Raises ValueError where two claim one seam or declare one dial, or where a
    dial that a method reads is declared by none."""

    methods: tuple[Method, ...]

    def __init__(self, *methods: Method) -> None:
        flat: list[Method] = []
        for method in methods:
            flat += method.methods if isinstance(method, Stack) else [method]
        # Sorted by seam, then by repr: the order of writing does not matter.
        object.__setattr__(self, "methods", tuple(sorted(flat, key=lambda m: (m.seam, repr(m)))))
        self._check()

    def __repr__(self) -> str:
        return f"Stack({', '.join(repr(m) for m in self.methods)})"

    def _check(self) -> None:
        claimed: dict[str, Method] = {}
        declared: dict[str, Method] = {}
        for method in self.methods:
            if method.alone and len(self.methods) > 1:
                other = next(m for m in self.methods if m is not method)
                raise ValueError(f"{method.name} does not compose with {other.name}: {method.alone}")
            if method.claims:
                other = claimed.setdefault(method.claims, method)
                if other is not method:
                    raise ValueError(
                        f"{other.name} and {method.name} both claim the {method.claims}; a stack has one of them"
                    )
            for dial in method.dials():
                first = declared.setdefault(dial.name, method)
                if first is not method:
                    raise ValueError(f"{first.name} and {method.name} both declare the dial {dial.name!r}")
        for method in self.methods:
            for read in method.reads:
                if read not in declared:
                    raise ValueError(
                        f"{method.name} reads the dial {read!r}, which no method of this stack declares; add Dual()"
                    )

    def dials(self) -> tuple[Dial, ...]:
        return tuple(dial for method in self.methods for dial in method.dials())

    def install(self, net: Net) -> None:
        for method in self.methods:
            method.install(net)

    def derive(self, net: Net, at: Resolved) -> Resolved:
        for method in self.methods:
            at = method.derive(net, at)
        return at

    def plan(self, terms: list[Term], batch: int, generator: torch.Generator) -> list[Term]:
        for method in sorted(self.methods, key=lambda m: m.multiplies):
            terms = method.plan(terms, batch, generator)
        return terms

    def read(self, net: Net, x: Tensor, at: Resolved, then: Read) -> Output:
        for method in self.methods:
            then = _wrapped(method, net, then)
        return then(x, at)

    def path(self, u: float) -> tuple[float, float]:
        for method in self.methods:
            if type(method).path is not Method.path:
                return method.path(u)
        return u, u

    def undecayed(self, net: Net) -> list[nn.Parameter]:
        return [p for method in self.methods for p in method.undecayed(net)]

    def after_step(self, net: Net, progress: float) -> None:
        for method in self.methods:
            method.after_step(net, progress)

    def after_epoch(self, net: Net, progress: float) -> None:
        for method in self.methods:
            method.after_epoch(net, progress)

    def finish(self, net: Net) -> None:
        for method in self.methods:
            method.finish(net)

    def passes(self, point: Point) -> int:
        return max(method.passes(point) for method in self.methods)

    def randomised(self, point: Point) -> bool:
        return any(method.randomised(point) for method in self.methods)

    def live(self, point: Point) -> bool:
        return any(method.live(point) for method in self.methods)

    def undivided(self) -> str:
        return next((why for method in self.methods if (why := method.undivided())), "")

    def forms(self, net: Net) -> dict[str, Form]:
        return {name: form for method in self.methods for name, form in method.forms(net).items()}

    def bound(self, net: Net) -> Stack:
        return Stack(*(method.bound(net) for method in self.methods))

    def find(self, kind: type[Method]) -> Method | None:
        """The method of one kind in this stack, or None."""
        return next((m for m in self.methods if isinstance(m, kind)), None)

    def replaced(self, old: Method, new: Method) -> Stack:
        """This stack with one method exchanged for another of the same kind."""
        return Stack(*(new if m is old else m for m in self.methods))


def _wrapped(method: Method, net: Net, then: Read) -> Read:
    if type(method).read is Method.read:
        return then
    return lambda x, at: method.read(net, x, at, then)


def everything(batch: int) -> list[Term]:
    """The plan before any method: every row, clean, at the rest point."""
    return [Term(torch.arange(batch))]


def row_loss(output: Output, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Training loss per row (B,): cross-entropy, summed over the exits where there are any."""
    heads: Sequence[Tensor] = output.exits or (output.logits,)
    losses = [F.cross_entropy(h, labels, reduction="none", label_smoothing=smoothing) for h in heads]
    return torch.stack(losses).sum(0)


def settings_of(stack: Stack) -> dict[str, Any]:
    """Every option of a composition that is not at its default: {"film.dim": 8}."""
    out: dict[str, Any] = {}
    for method in stack.methods:
        assert dataclasses.is_dataclass(method)
        for f in dataclasses.fields(method):
            value = getattr(method, f.name)
            if value != f.default:
                out[f"{method.name}.{f.name}"] = value
    return out
