"""Conversion of the points and attacks passed to `evaluate` into values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from rheostat.attacks import Attack, named
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target, as_target
from rheostat.evaluation.tiers import attacks_of
from rheostat.models.tunable import AtPoint, Tunable
from rheostat.points.grid import parse_grid
from rheostat.points.point import Point, Value
from rheostat.runtime.choices import nearest

Points = str | Point | Mapping[str, Value] | Sequence[str | Point | Mapping[str, Value] | None] | None
Attacks = str | Attack | Sequence[str | Attack]
FORMED = "pgd20"
"""The attack for all forms of a model if no attack of the tier takes a form."""


def as_points(target: Target, given: Points) -> list[Point | None]:
    """The points of a grid text, a point or a dict, or of a sequence of these, completed and checked.

    By default, all positions of each dial, or the only point of a model without dials. A plain module has
    no dials; its only point is None. Raises ValueError for points of a module without dials.
    """
    model = target.model
    if not isinstance(model, Tunable):
        if (isinstance(given, str) and given) or (not isinstance(given, str) and any(given or ())):
            raise ValueError(f"{target.run} has no dials; omit --at (in Python: points)")
        return [None]
    if given is None or (isinstance(given, str) and not given.strip(" ;")):
        every = [Point(**{d.name: v}) for d in model.dials.values() for v in d.positions()]
        return [model.complete(p) for p in every or [Point()]]
    several = [given] if isinstance(given, str | Mapping) else given
    points: list[Point] = []
    for one in several:
        points += parse_grid(one) if isinstance(one, str) else [Point(**(one or {}))]
    if not points:
        raise ValueError("an evaluation needs at least one point; leave points out (None) for all positions")
    return [model.complete(p) for p in points]


def at_points(model: nn.Module | Target, points: Points, name: str | None = None) -> tuple[Target, list[Point | None]]:
    """The target and its points (`as_target`, `as_points`); `model.at(point)` is that model at that point.

    As a plain module it would hide its exits, its forms of attack and its noise.
    """
    target = as_target(model, name)
    asked = as_points(target, points)
    if type(target.model) is not AtPoint:
        return target, asked
    return replace(target, model=target.model.model), [target.model.point]


def as_attacks(target: Target, given: Attacks, options: EvaluationOptions) -> list[Attack]:
    """Attacks from values and names (comma-separated or a sequence).

    `Attack` values are used unchanged. Names take the radius of the options, or else the radius the model was
    trained with, in its norm. NAME@all is NAME under every form of attack on a multi-exit model. Raises ValueError if
    there is no attack, no radius, an unknown name, a form that the model does not have, a step size that none of the
    attacks takes, or attacks of several norms or radii, which have no common worst case.
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
            raise ValueError(f"{target.run} has no threat model; give --eps (in Python: EvaluationOptions(eps=))")
        trained = threat.get("norm", "linf")
        norm = options.norm or trained
        if options.eps is None and norm != trained:
            raise ValueError(
                f"{target.run} was trained in {trained}, and its radius holds in that norm alone; "
                f"--norm {norm} needs --eps (in Python: EvaluationOptions(norm={norm!r}, eps=))"
            )
        names = [form for n in one.split(",") if n.strip() for form in forms_of(target, n.strip())]
        made = [named(n, eps=float(eps), norm=norm, step_size=options.step_size) for n in names]
        out += [a for a in dict.fromkeys(made) if a not in out]  # pgd20 and pgd20@all: pgd20 once
    if not out:
        raise ValueError("an evaluation needs at least one attack")
    _check_forms(target, out)
    if options.step_size is not None and all(a.step_size != options.step_size for a in out):
        raise ValueError(
            f"{', '.join(a.name for a in out)}: no attack here takes the step size {options.step_size:g}; omit "
            "--step-size (in Python: step_size=), or name an attack that takes it, such as pgd20 or mi-fgsm"
        )
    balls = {(a.norm, a.eps): a.name for a in out}
    if len(balls) > 1:
        listed = " and ".join(f"{name} with {norm} {eps!r}" for (norm, eps), name in balls.items())
        raise ValueError(
            f"the attacks of one evaluation need one norm and one eps, given {listed}; evaluate them apart"
        )
    return out


def forms_of(target: Target, name: str) -> list[str]:
    """NAME@all as the list of names it stands for; any other name as a list of one."""
    plain, _, form = name.partition("@")
    if form != "all":
        return [name]
    return [plain, *(f"{plain}@{form}" for form in _forms(target, form))]


def _forms(target: Target, asked: str) -> list[str]:
    """The forms of attack of a target, which has `asked` for one; ValueError if it has none."""
    model = target.model
    found = model.method.forms(model.net) if isinstance(model, Tunable) else {}
    if not found:
        raise ValueError(f"{target.run} has no exits and therefore no forms of attack; omit @{asked}")
    return list(found)


def _check_forms(target: Target, attacks: Sequence[Attack]) -> None:
    """ValueError for a form of attack that the target does not have."""
    for attack in attacks:
        if attack.form != "direct" and attack.form not in (known := _forms(target, attack.form)):
            raise ValueError(f"{attack.name}: no form of attack {attack.form!r}; {nearest(attack.form, known)}")


def by_tier(
    target: Target, points: list[Point | None], tier: str, classes: int
) -> list[tuple[list[Point | None], tuple[str, ...]]]:
    """Points and the names of a tier's attacks on them, in every form where that is needed.

    Every form is needed for live exits, and for each method whose logits have a misleading gradient (`misleads`).
    """
    plain = tuple(attacks_of(tier, classes))
    # Only attacks that treat rows independently take a form; a tier of another package may have none.
    formed = next((n for n in plain if named(n, eps=0.0).rowwise), FORMED)
    model = target.model
    every = [isinstance(model, Tunable) and p is not None and model.method.misleads(p) for p in points]
    groups = [
        ([p for p, needed in zip(points, every, strict=True) if not needed], plain),
        ([p for p, needed in zip(points, every, strict=True) if needed], (*plain, f"{formed}@all")),
    ]
    return [group for group in groups if group[0]]


def grouped(
    target: Target, points: Points, attacks: Attacks | None, options: EvaluationOptions, *, classes: int
) -> list[tuple[list[Point | None], list[Attack]]]:
    """Points with their attacks: those given, or without any those of the tier (`by_tier`).

    Points that exchange images (`transfer`, `warm`) are evaluated together, under every attack that one of them needs.
    """
    asked = as_points(target, points)
    if attacks is not None:
        return [(asked, as_attacks(target, attacks, options))]
    groups = by_tier(target, asked, options.tier, classes)
    if options.transfer or options.warm:
        groups = [(asked, groups[-1][1])]  # the last group runs every attack of the others
    return [(some, as_attacks(target, names, options)) for some, names in groups]
