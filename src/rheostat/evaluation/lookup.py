"""From names to a measurement: a model, points, attacks and a data set found, then `evaluate`."""

from __future__ import annotations

from pathlib import Path

from rheostat import data
from rheostat.attacks import Attack, named
from rheostat.data import Dataset, make_splits, subset
from rheostat.evaluation.evaluator import Report, evaluate
from rheostat.evaluation.target import Subject, from_factory
from rheostat.evaluation.tiers import attacks_of
from rheostat.models import artifact
from rheostat.models.tunable import Tunable
from rheostat.points.grid import parse_grid
from rheostat.points.point import Point
from rheostat.results.rows import Row
from rheostat.runtime.distributed import device_named, join
from rheostat.runtime.quantities import number


def find_subject(which: str, *, name: str | None, between: str | None) -> Subject:
    """What to measure: a run's folder, a model file, a packaged name or package.module:factory."""
    if ":" in which and not Path(which).exists():
        if between is not None:
            raise ValueError("--between is for Rheostat's own models, not for a factory's")
        return Subject(from_factory(which), name or which)
    model, about = artifact.load_with(which)
    recipe_name = about.provenance.get("recipe", {}).get("name")
    return Subject(
        model if between is None else model.between(between),
        name or recipe_name or Path(which).stem,
        artifact=artifact.digest(which),
        about=about,
        rule=between,
    )


def find_data(
    subject: Subject, name: str | None, split: str, *, data_dir: Path | None, examples: int | None, verify: bool
) -> Dataset:
    """The images to measure on; calibration splits are those of the model's own recipe."""
    recipe = subject.about.provenance.get("recipe", {}).get("data", {})
    chosen = name or recipe.get("name")
    if chosen is None:
        raise ValueError(f"{subject.run} does not say which data it is for; give --data")
    loaded = data.load(chosen, folder=data_dir, verify=verify and recipe.get("verify", True))
    if split == "test":
        return subset(loaded[1], examples)
    if not recipe:
        raise ValueError(f"split {split!r} is only known for models trained by a recipe")
    splits = make_splits(
        *loaded, calibrate=recipe["calibrate"], limit=recipe["train_images"], seed=recipe["split_seed"]
    )
    return subset(splits.named(split), examples)


def find_attacks(
    subject: Subject, names: list[str], *, eps: str | None, norm: str | None, step_size: str | None
) -> list[Attack]:
    """Attacks by name, at the model's own eps and norm unless given."""
    threat = subject.about.threat
    radius = eps if eps is not None else threat.get("eps")
    if radius is None:
        raise ValueError(f"{subject.run} has no threat model of its own; give --eps")
    size = None if step_size is None else _float(step_size)
    chosen = norm or threat.get("norm", "linf")
    flat = [one for text in names for n in text.split(",") if n.strip() for one in _forms(subject, n.strip())]
    return [named(n, eps=_float(radius), norm=chosen, step_size=size) for n in flat]


def _forms(subject: Subject, name: str) -> list[str]:
    """NAME@all is NAME under every form of attack that a multi-exit model has."""
    plain, _, form = name.partition("@")
    if form != "all":
        return [name]
    model = subject.model
    found = model.method.forms(model.net) if isinstance(model, Tunable) else {}
    if not found:
        raise ValueError(f"{subject.run} has no exits, so no forms of attack; leave @all out")
    return [plain, *(f"{plain}@{form}" for form in found)]


def _float(text: str | float) -> float:
    try:
        return float(str(number(text)))
    except ValueError:
        raise ValueError(f"not a number: {text!r} (write 0.03 or 8/255)") from None


def find_points(subject: Subject, at: str) -> list[Point | None]:
    """The points of a grid text; by default every dial's positions, or the one point there is."""
    model = subject.model
    if not isinstance(model, Tunable):
        if at:
            raise ValueError(f"{subject.run} has no dials; leave --at out")
        return [None]
    points: list[Point] = parse_grid(at)
    if not at:
        points = [Point(**{d.name: v}) for d in model.dials.values() for v in d.positions()]
    return [model.checked(p) for p in points or [Point()]]


def measure(
    which: str,
    at: str,
    attacks: list[str] | None = None,
    *,
    tier: str | None = None,
    data: str | None = None,
    eps: str | None = None,
    norm: str | None = None,
    step_size: str | None = None,
    between: str | None = None,
    split: str = "test",
    examples: int | None = None,
    out: Path | None = None,
    name: str | None = None,
    seed: int = 0,
    warm: bool = False,
    transfer: bool = False,
    probing: bool | None = None,
    fresh: bool = False,
    data_dir: Path | None = None,
    device: str = "auto",
    verify: bool = True,
    report: Report | None = None,
) -> list[Row]:
    """Rows of a model at points under attacks; everything by name, as the command line has it.

    `tier` and `attacks` exclude one another; with neither, the tier is quick. Own attacks are rows of
    tier "own".
    """
    if tier and attacks:
        raise ValueError("a tier names its attacks: give --tier or --attack, not both")
    subject = find_subject(which, name=name, between=between)
    points = find_points(subject, at)
    dataset = find_data(subject, data, split, data_dir=data_dir, examples=examples, verify=verify)
    names = attacks or attacks_of(tier or "quick", len(dataset.classes))
    chosen = find_attacks(subject, names, eps=eps, norm=norm, step_size=step_size)
    place = device_named(device)
    subject.model.to(place)
    folder = Path(which) if Path(which).is_dir() else Path("runs") / subject.run.replace(":", ".")
    return evaluate(
        subject,
        points,
        chosen,
        dataset,
        split=split,
        out=out or folder / "rows.jsonl",
        tier=tier or "quick",
        seed=seed,
        warm=warm,
        transfer=transfer,
        probing=probing,
        fresh=fresh,
        ranks=join(place),
        report=report,
    )
