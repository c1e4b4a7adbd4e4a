"""Evaluation by name: look up the model, points, attacks and data set, then call `evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from rheostat import data
from rheostat.data import Dataset, make_splits, subset
from rheostat.evaluation.arguments import at_points, grouped
from rheostat.evaluation.corrupted import SEVERITIES, evaluate_corruptions
from rheostat.evaluation.evaluator import Report, evaluate
from rheostat.evaluation.options import DEFAULT_SPLIT, EvaluationOptions
from rheostat.evaluation.target import Target, as_target
from rheostat.models import artifact
from rheostat.models.factories import Factory, from_factory
from rheostat.results.row import Row
from rheostat.runtime.distributed import device_named, join
from rheostat.runtime.quantities import number

WHERE = "data.json"
"""The file in a run's folder that records where its images are."""


def find_target(
    which: str, *, name: str | None, between: str | None, net: nn.Module | Factory | str | None = None
) -> Target:
    """The target of a run's folder, a model file, a packaged name, `hf:org/name` or package.module:factory.

    `net` is the network of an adopted model, its factory or the name of that (`rheostat.load`). Raises ValueError if
    the name is unknown, or if `between` is set for a factory.
    """
    if ":" in which and not which.startswith("hf:") and not Path(which).exists():
        if between is not None:
            raise ValueError("--between needs a Rheostat model, not a factory")
        return as_target(from_factory(which), name or which)
    model, about = artifact.load_with(which, net=net)
    recipe_name = about.provenance.get("recipe", {}).get("name")
    return Target(
        model if between is None else model.between(between),
        name or recipe_name or Path(which).stem,
        artifact=artifact.digest(which),
        about=about,
        rule=between,
        folder=Path(which) if Path(which).is_dir() else None,
    )


def find_data(
    target: Target,
    name: str | None,
    split: str,
    *,
    data_dir: Path | None,
    examples: int | None,
    verify: bool,
    otherwise: str = "",
) -> Dataset:
    """The images of an evaluation; calibration splits follow the model's recipe.

    Without `name` and `data_dir` it uses the training data that the run's folder records. Raises ValueError if
    no data set is known, for a split of a model without a recipe, or for one of a folder whose images are no longer
    those of the training; it says what to do `otherwise`, by default as `rheostat evaluate` can.
    """
    recipe = target.about.provenance.get("recipe", {}).get("data", {})
    remembered, folder_there = data_of_run(target.folder)
    chosen, data_dir = name or remembered or recipe.get("name"), data_dir or folder_there
    if chosen is None:
        raise ValueError(f"{target.run} does not record its data set; {otherwise or 'give --data'}")
    loaded = data.load(
        chosen, folder=data_dir, verify=verify and recipe.get("verify", True), preprocessing=target.about.preprocessing
    )
    if split == "test":
        return subset(loaded[1], examples)
    if not {"calibrate", "train_images", "split_seed"} <= recipe.keys():
        raise ValueError(
            f"split {split!r} is known only for models trained with a recipe; {otherwise or 'use --split test'}"
        )
    splits = make_splits(
        *loaded, calibrate=recipe["calibrate"], limit=recipe["train_images"], seed=recipe["split_seed"]
    )
    began = target.about.provenance.get("images")
    if began and chosen in (remembered, recipe.get("name")) and data.order_hash(chosen, loaded[0]) != began:
        raise ValueError(
            f"the images of {chosen} have changed since {target.run} was trained, so {split!r} drawn from them may "
            f"hold images of its training; {otherwise or 'use --split test'}"
        )
    return subset(splits.named(split), examples)


def data_of_run(folder: Path | None) -> tuple[str | None, Path | None]:
    """(name, folder) of the images that a run's folder records; None for a missing entry or missing images."""
    if folder is None or not (folder / WHERE).is_file():
        return None, None
    found = json.loads((folder / WHERE).read_text())
    name, inside = str(found["name"]), Path(found["folder"])
    if name.startswith("folder:"):
        return (name if Path(name.removeprefix("folder:")).is_dir() else None), None
    return None, inside if inside.is_dir() else None


def _float(text: str) -> float:
    try:
        return float(str(number(text)))
    except ValueError:
        raise ValueError(f"not a number: {text!r} (write 0.03 or 8/255)") from None


@dataclass(frozen=True)
class Request:
    """An evaluation by name, as the command line specifies it.

    `which` is a run's folder, a model file, a packaged name, `hf:org/name` or package.module:factory. `at` is a grid of
    points; empty means all positions of the dials. Give `tier` or `attacks`, not both; the default tier is quick,
    which is also the tier of rows under `attacks`. `data`, `eps` and `norm` default to those of the model; numbers
    may be written 8/255. `examples` is the size of a stratified subset. `net` names the factory of an adopted
    model's network. `corruptions` replaces attacks by common corruptions at `severities` (default 1, 3 and 5).
    """

    which: str
    at: str = ""
    attacks: tuple[str, ...] = ()
    tier: str | None = None
    data: str | None = None
    eps: str | None = None
    norm: str | None = None
    step_size: str | None = None
    between: str | None = None
    examples: int | None = None
    data_dir: Path | None = None
    device: str = "auto"
    verify: bool = True
    net: str | None = None
    corruptions: bool = False
    severities: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.severities is not None and not self.corruptions:
            raise ValueError("--severities needs --corruptions")
        if self.corruptions and (self.tier or self.attacks or self.eps or self.norm or self.step_size):
            raise ValueError("--corruptions runs no attack: omit --tier, --attack, --eps, --norm and --step-size")
        if self.tier and self.attacks:
            raise ValueError("a tier already names its attacks; give --tier or --attack, not both")


def measure(request: Request, options: EvaluationOptions | None = None, *, report: Report | None = None) -> list[Row]:
    """Rows of a model at points under attacks, all given by name; the request takes precedence over `options`.

    Without `options.out` the rows go to rows.jsonl in the run's folder, or in runs/NAME.
    """
    options = options or EvaluationOptions()
    if request.corruptions and (
        options.transfer or options.warm or options.probing or options.attack_precision != "fp32"
    ):
        raise ValueError("--corruptions runs no attack: omit --transfer, --warm, --probe and --attack-precision")
    target = find_target(request.which, name=options.name, between=request.between, net=request.net)
    dataset = find_data(
        target,
        request.data,
        options.split or DEFAULT_SPLIT,
        data_dir=request.data_dir,
        examples=request.examples,
        verify=request.verify,
    )
    options = settled(request, options, target)
    target, points = at_points(target, request.at)
    place = device_named(request.device)
    target.model.to(place)
    if request.corruptions:
        return evaluate_corruptions(
            target,
            points,
            dataset,
            severities=request.severities or SEVERITIES,
            options=options,
            ranks=join(place),
            report=report,
        )
    rows: list[Row] = []
    for some, attacks in grouped(target, points, request.attacks or None, options, classes=len(dataset.classes)):
        rows += evaluate(target, some, attacks, dataset, options=options, ranks=join(place), report=report)
    return rows


def settled(request: Request, options: EvaluationOptions, target: Target) -> EvaluationOptions:
    """The options with what the request sets, and the file of rows if they name none."""
    return replace(
        options,
        tier=request.tier or "quick",
        out=options.out or _folder(request, options, target) / "rows.jsonl",
        eps=options.eps if request.eps is None else _float(request.eps),
        norm=request.norm or options.norm,
        step_size=options.step_size if request.step_size is None else _float(request.step_size),
    )


def _folder(request: Request, options: EvaluationOptions, target: Target) -> Path:
    """The folder of rows: the run's, or runs/NAME.

    Anyone may have written a model file, so a name that comes from it may not lead out of runs: ValueError for a name
    that cannot be a folder in runs.
    """
    if Path(request.which).is_dir():
        return Path(request.which)
    name = target.run.replace(":", ".")
    if options.name is None and (Path(name).name != name or name == ".."):
        raise ValueError(f"{request.which} names its run {name!r}, which is no folder in runs; give --name or --out")
    return Path("runs") / name
