"""What may be given to `evaluate` as points and attacks, made into values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rheostat.attacks import Attack, named
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.models.tunable import Tunable
from rheostat.points.grid import parse_grid
from rheostat.points.point import Point, Value

Points = str | Sequence[Point | Mapping[str, Value] | None] | None
Attacks = str | Attack | Sequence[str | Attack]


def as_points(target: Target, given: Points) -> list[Point | None]:
    """The points of a grid text, or of a sequence of points or dicts, complete and checked.

    Nothing given: every dial's positions, or the one point there is. A plain module has no dials; its
    one point is None.
    """
    model = target.model
    if not isinstance(model, Tunable):
        if (isinstance(given, str) and given) or (not isinstance(given, str) and any(given or ())):
            raise ValueError(f"{target.run} has no dials; leave --at out")
        return [None]
    if given is None or (isinstance(given, str) and not given.strip(" ;")):
        every = [Point(**{d.name: v}) for d in model.dials.values() for v in d.positions()]
        return [model.complete(p) for p in every or [Point()]]
    points = parse_grid(given) if isinstance(given, str) else [Point(**(p or {})) for p in given]
    if not points:
        raise ValueError("an evaluation needs at least one point; leave points out (None) for all positions")
    return [model.complete(p) for p in points]


def as_attacks(target: Target, given: Attacks, options: EvaluationOptions) -> list[Attack]:
    """Attacks as they are; names (a comma list or a sequence) at the options' radius, or the model's own.

    NAME@all is NAME under every form of attack that a multi-exit model has.
    """
    several = [given] if isinstance(given, str | Attack) else list(given)
    out: list[Attack] = []
    for one in several:
        if isinstance(one, Attack):
            out.append(one)
            continue
        threat = target.about.threat
        eps = options.eps if options.eps is not None else threat.get("eps")
        if eps is None:
            raise ValueError(f"{target.run} has no threat model of its own; give --eps")
        norm = options.norm or threat.get("norm", "linf")
        names = [form for n in one.split(",") if n.strip() for form in forms_of(target, n.strip())]
        names = [n for n in names if n not in {a.name for a in out}]  # pgd20 and pgd20@all: pgd20 once
        out += [named(n, eps=float(eps), norm=norm, step_size=options.step_size) for n in names]
    if not out:
        raise ValueError("an evaluation needs at least one attack")
    return out


def forms_of(target: Target, name: str) -> list[str]:
    """NAME@all as the names that it stands for; any other name alone."""
    plain, _, form = name.partition("@")
    if form != "all":
        return [name]
    model = target.model
    found = model.method.forms(model.net) if isinstance(model, Tunable) else {}
    if not found:
        raise ValueError(f"{target.run} has no exits, so no forms of attack; leave @all out")
    return [plain, *(f"{plain}@{form}" for form in found)]
