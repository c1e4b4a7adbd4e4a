"""Ships a finished run: names its points, gives them temperatures, and writes its file to where models ship from.

`python benchmarks/zoo/ship.py runs/NAME NAME`, after `rheostat queue benchmarks/queues/zoo/NAME.toml` has measured it;
then `make pages` renews the index and the pages. The weights stay those of the run, so rows keep their model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from repeating import FILE, STEPS, first_losses, keep

from rheostat.deploy.choosing import Need, choose
from rheostat.deploy.named_points import choice_lines, own_rows, store_point
from rheostat.models import artifact
from rheostat.models.fetching import sha256
from rheostat.models.zoo import LARGEST
from rheostat.runtime.files import read_tensors, write_bytes, write_tensors
from rheostat.training.recipe import Recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "benchmarks" / "results" / "zoo.jsonl"
POINTS = {"clean": "clean", "balanced": "balanced", "robust": "robust"}
"""Named points, and the goal of each: SA, a large share of both, RA."""
KEPT = ("recipe", "dataset", "seconds", "best_epoch", "flags", "calibration", "versions")
"""What a shipped file says of where its weights are from."""
NOTES = {
    "cifar10": "The copy that the model was trained and measured on is not the published one bit for bit: 104 of its "
    "60 000 images (81 for training, 23 of the test) were decoded from JPEG files of the right images."
}
"""What is known of a copy of a data set whose checksums are not the published ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the finished run")
    parser.add_argument("name", help="name of the model, which is also that of its recipe")
    parser.add_argument("--rows", type=Path, default=ROWS, help="rows of the model, calibrate-choose among them")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets; default RHEOSTAT_DATA")
    parser.add_argument("--no-verify", action="store_true", help="the data's checksums are not the published ones")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        lines = ship(given.run, given.name, rows=given.rows, data_dir=given.data_dir, verify=not given.no_verify)
    except ValueError as problem:
        sys.exit(f"ship: {problem}")
    print("\n".join(lines))


def ship(
    run: Path,
    name: str,
    *,
    rows: Path = ROWS,
    data_dir: Path | None = None,
    verify: bool = True,
    root: Path = ROOT,
    losses: Path = FILE,
    steps: int = STEPS,
) -> list[str]:
    """Write a run's model as one that ships, below a repository's root; lines that say what was written.

    ValueError, and nothing written, where the run is not finished, is not of the recipe of that name, has no rows on
    calibrate-choose, or was trained on a copy of the data of which nothing is known.
    """
    digest = artifact.digest(run)
    tensors, found = read_tensors(artifact.locate(run))
    found["provenance"] = _provenance(found["provenance"], name, checked=verify)
    found |= {"points": {}, "measured": {}}
    choices = {point: choose(own_rows(rows, digest), Need(), maximise=goal) for point, goal in POINTS.items()}
    said = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.safetensors"
        write_tensors(file, tensors, found)
        for point, choice in choices.items():
            assert choice.chosen is not None  # no limit was set
            stored = store_point(str(file), point, choice.chosen, choice, data_dir=data_dir, verify=verify)
            line = choice_lines(choice)[0].removeprefix("chosen: ")
            said.append(f"{point}: {line}; temperature {stored['temperature']:.2f}")
        if artifact.digest(file) != digest:
            raise ValueError("the file to ship is another model than the run's; nothing was written")
        recipe = parse_recipe(found["provenance"]["recipe"])
        repeated = first_losses(
            recipe if verify else recipe.changed(data={"verify": False}), steps=steps, data_dir=data_dir
        )
        content = file.read_bytes()
    small, large = (root / f / file.name for f in ("src/rheostat/models/artifacts", "models"))
    target, other = (small, large) if len(content) <= LARGEST else (large, small)
    keep(name, repeated, precision=recipe.device.precision, threads=torch.get_num_threads(), file=losses)
    write_bytes(target, content)
    other.unlink(missing_ok=True)
    bounds = choice_lines(choices["clean"])[-1]
    return [*said, bounds, f"{target}: {len(content)} bytes, sha256 {sha256(target)}, hash {digest}", "now: make pages"]


def _provenance(given: dict[str, Any], name: str, *, checked: bool) -> dict[str, Any]:
    """What the shipped file says of its training: the recipe of that name, and what is known of the data.

    `checked`: the checksums of the data are checked now, when temperatures and first losses are computed from them. A
    run that did not check them itself then needs no note.
    """
    if given.get("calibration") != "done":
        raise ValueError(f"the run's calibration is {given.get('calibration')!r}; finish its training first")
    own, published = parse_recipe(given["recipe"]), load_recipe(name)
    differ = sorted(k for k, v in _deciding(own).items() if _deciding(published).get(k) != v)
    if differ:
        raise ValueError(f"the run is not of the recipe {name}: {', '.join(differ)} differ")
    kept = {k: given[k] for k in KEPT if k in given}
    if not own.data.verify and not checked:
        if own.data.name not in NOTES:
            raise ValueError(
                f"the run did not check its copy of {own.data.name}, and NOTES says nothing of such a copy"
            )
        kept["data_note"] = NOTES[own.data.name]
    return kept | {"recipe": published.model_dump(mode="json")}


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe, by section and key, less those that change no weight."""
    flat: dict[str, Any] = {}
    for section, value in recipe.model_dump(mode="json").items():
        flat |= {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {section: value}
    for key in ("about", "data.verify", "device.threads", "train.checkpoint_seconds"):
        del flat[key]
    return flat


if __name__ == "__main__":
    main()
