"""The seam between papers and the rest: Method, Term, Output, Stack.

A method is a frozen dataclass: its fields are its hyper-parameters and its repr rebuilds it; the network holds the
weights. A method gives parts to seats (`install`) and hooks into the forward pass. `Stack` composes methods and sorts
them by seam, so the order of its arguments does not matter.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from rheostat.methods.passes import Attacked, Form, Output, Read, row_loss
from rheostat.methods.terms import Term, everything
from rheostat.nets.base import Net
from rheostat.points.dial import Dial
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.plain import with_plain_fields

__all__ = ["Attacked", "Form", "Method", "Output", "Read", "Stack", "Term", "everything", "row_loss", "settings_of"]

M = TypeVar("M", bound="Method")


class Method:
    """Abstract way of conditioning a network. Subclasses are frozen dataclasses.

    Two methods are abstract: `dials` and `install`. The other hooks have the defaults below.
    """

    seam: ClassVar[int] = 50
    """Position in the order of installation: networks 3, exits 5 (which add seats that later methods
    condition), norm banks 10, widths 20, modulations 30, noise 40, masks 50, experts 60."""
    gives_way: ClassVar[bool] = False
    """Whether `plan` is only a default, which another method's plan in the stack replaces."""
    for_plan: ClassVar[tuple[str, ...]] = ()
    """Options that only this method's own `plan` reads; a stack whose plan is another method's refuses them."""
    multiplies: ClassVar[bool] = False
    """Whether `extend` repeats the given terms: then it runs after methods that only add terms."""
    claims: ClassVar[str] = ""
    """A seam that only one method of a stack may claim."""
    alone: ClassVar[str] = ""
    """If this method composes with no other, the reason; otherwise empty."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Dials that this method reads; another method of the stack must declare them."""

    @property
    def name(self) -> str:
        """The name used in messages."""
        return type(self).__name__.lower()

    def dials(self) -> tuple[Dial, ...]:
        """The dials this method declares."""
        raise TypeError(f"{type(self).__name__} does not say which dials it declares")

    def install(self, net: Net) -> None:
        """Give the network's seats their parts; ValueError if the network lacks a required seat."""
        raise TypeError(f"{type(self).__name__} does not say how it is installed")

    def derive(self, net: Net, at: Resolved) -> Resolved:
        """Add the values that this method's layers need, beyond the dials, to a resolved point."""
        return at

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        """The terms of a training step over `batch` rows. Only one method of a stack defines them."""
        return everything(batch)

    def extend(self, terms: list[Term]) -> list[Term]:
        """Add to, repeat or change the terms of a step."""
        return terms

    def extend_default(self, terms: list[Term]) -> list[Term]:
        """`extend` if no method of the stack defines the terms: they are then one term of all rows, clean."""
        return self.extend(terms)

    @property
    def plans(self) -> bool:
        """Whether this method defines the terms of a step instead of only extending them."""
        return type(self).plan is not Method.plan

    def read(self, net: Net, x: Tensor, at: Resolved, then: Read) -> Output:
        """The forward pass; `then` is the pass of the preceding methods."""
        return then(x, at)

    def path(self, u: float) -> tuple[float, float]:
        """(λ, blend of the norm sets) at the position u in [0, 1] between clean and robust."""
        return u, u

    def undecayed(self, net: Net) -> list[nn.Parameter]:
        """Parameters that take no weight decay."""
        return []

    def after_step(self, net: Net, progress: float) -> None:
        """Called after every optimiser step; `progress` is the completed share of training, in [0, 1]."""

    def after_epoch(self, net: Net, progress: float) -> None:
        """Called after every epoch."""

    def finish(self, net: Net) -> None:
        """Called once on the selected weights: remove state that only training needs."""

    def passes(self, point: Point) -> int:
        """Number of passes of the network that a point costs."""
        return 1

    def randomised(self, point: Point) -> bool:
        """Whether a pass at this point draws noise (evaluate it only by expectation over draws)."""
        return False

    def live(self, point: Point) -> bool:
        """Whether the image decides which operators run at this point (early exit)."""
        return False

    def misleads(self, point: Point) -> bool:
        """Whether the gradient of the logits may mislead an attack here, so that tiers attack every form (`forms`)."""
        return self.live(point)

    def undivided(self) -> str:
        """If several ranks cannot share a training step of this method, the reason; otherwise empty."""
        return ""

    def forms(self, net: Net) -> dict[str, Form]:
        """The attack objectives of this method by name, in addition to the point's logits ("direct")."""
        return {}

    def bound(self, net: Net) -> Method:
        """This method with every option filled in that depends on the network."""
        return self


@dataclass(frozen=True)
class Stack(Method):
    """A composition of methods. ValueError if two methods claim one seam, declare one dial or define
    the terms of a step, or if no method declares a dial that another one reads."""

    methods: tuple[Method, ...]

    def __init__(self, *methods: Method) -> None:
        flat = [m for method in methods for m in (method.methods if isinstance(method, Stack) else (method,))]
        # Sorted by seam, then by repr, so that the order of the arguments does not matter.
        ordered = sorted(map(with_plain_fields, flat), key=lambda m: (m.seam, repr(m)))
        object.__setattr__(self, "methods", tuple(ordered))
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
                        f"{other.name} and {method.name} both claim the {method.claims}; a stack may have only one"
                    )
            for dial in method.dials():
                first = declared.setdefault(dial.name, method)
                if first is not method:
                    raise ValueError(f"{first.name} and {method.name} both declare the dial {dial.name!r}")
        for gives_way in (False, True):
            planning = [m for m in self.methods if m.plans and m.gives_way == gives_way]
            if len(planning) > 1:
                raise ValueError(
                    f"{planning[0].name} and {planning[1].name} both define the terms of a training step; "
                    "a stack may have only one plan (a method adds terms to it in `extend`)"
                )
        for method in self.methods:
            for read in method.reads:
                if read not in declared:
                    raise ValueError(
                        f"{method.name} reads the dial {read!r}, which no method of this stack declares; add Dual()"
                    )
            for option in method.for_plan if method is not self.owner else ():
                if getattr(method, option) != getattr(type(method), option):  # a dataclass keeps defaults there
                    assert self.owner is not None
                    raise ValueError(
                        f"{method.name}: {option}={getattr(method, option)!r} has no effect here, because "
                        f"{self.owner.name} defines the terms of a training step; leave {option} out "
                        "(`--set method={}` drops a recipe's options)"
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

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        owner = self.owner
        return self.extend_default(everything(batch)) if owner is None else self.extend(owner.plan(batch, generator))

    def extend(self, terms: list[Term]) -> list[Term]:
        for method in self._extending:
            terms = method.extend(terms)
        return terms

    def extend_default(self, terms: list[Term]) -> list[Term]:
        for method in self._extending:
            terms = method.extend_default(terms)
        return terms

    @property
    def _extending(self) -> list[Method]:
        """The methods in the order in which they extend the terms: those that multiply them come last."""
        return sorted(self.methods, key=lambda m: m.multiplies)

    @property
    def owner(self) -> Method | None:
        """The method that defines the terms of a step; None means every row, clean, at the rest point."""
        planning = [m for m in self.methods if m.plans]
        return next((m for m in planning if not m.gives_way), planning[0] if planning else None)

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

    def misleads(self, point: Point) -> bool:
        return any(method.misleads(point) for method in self.methods)

    def undivided(self) -> str:
        return next((why for method in self.methods if (why := method.undivided())), "")

    def forms(self, net: Net) -> dict[str, Form]:
        return {name: form for method in self.methods for name, form in method.forms(net).items()}

    def bound(self, net: Net) -> Stack:
        return Stack(*(method.bound(net) for method in self.methods))

    def part(self, kind: type[M]) -> M | None:
        """The method of class `kind` in this stack, or None."""
        return next((m for m in self.methods if isinstance(m, kind)), None)

    def replaced(self, old: Method, new: Method) -> Stack:
        """This stack with method `old` replaced by `new`, which is of the same class."""
        return Stack(*(new if m is old else m for m in self.methods))


def _wrapped(method: Method, net: Net, then: Read) -> Read:
    if type(method).read is Method.read:
        return then
    return lambda x, at: method.read(net, x, at, then)


def settings_of(stack: Stack) -> dict[str, Any]:
    """The options of a composition that differ from their defaults, such as {"film.dim": 8}."""
    out: dict[str, Any] = {}
    for method in stack.methods:
        assert dataclasses.is_dataclass(method)
        for f in dataclasses.fields(method):
            value = getattr(method, f.name)
            if value != f.default:
                out[f"{method.name}.{f.name}"] = value
    return out
