"""Shipping a run: points, temperatures, size and hash; the index, pages and pictures are made from files and rows."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rheostat
from rheostat.models import artifact, zoo
from rheostat.models.fetching import sha256
from rheostat.results.rows import write_rows
from rheostat.runtime.files import read_tensors, write_tensors
from rheostat.training.recipe import load_recipe
from support import made_row

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GRID = [i / 10 for i in range(11)]


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The modules of benchmarks/zoo and benchmarks/pages by name."""
    folders = [str(BENCHMARKS / f) for f in ("zoo", "pages")]
    sys.path[:0] = folders
    try:
        import dials_shipped
        import repeating
        import ship
        import zoo_index

        import models
    finally:
        for folder in folders:
            sys.path.remove(folder)
    return {"ship": ship, "index": zoo_index, "pages": models, "dials": dials_shipped, "repeating": repeating}


def curve(digest: str, n: int = 200, **more: Any) -> list[Any]:
    """Eleven rows along a dial: SA falls from 0.95 to 0.85, RA rises to 0.6 at t = 0.8 and hardly after."""
    rows = []
    for t in GRID:
        clean, robust = (torch.arange(n) < round(n * v) for v in (0.95 - 0.1 * t, min(0.75 * t, 0.56 + 0.05 * t)))
        fields = {"run": "oat-digits", "artifact": digest, "at": {"robustness": t}, **more}
        rows.append(made_row(clean, robust, **fields))
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the packaged recipe: the packaged model, as a training of this version leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "oat-digits"
    folder.mkdir()
    tensors, found = read_tensors(artifact.packaged()["oat-digits"])
    recipe = load_recipe("oat-digits").changed(data={"verify": False}).model_dump(mode="json")
    found["provenance"] |= {"calibration": "done", "recipe": recipe, "scratch": "not shipped"}
    found["points"] = {"trial": {"robustness": 0.3}}
    write_tensors(folder / "model.safetensors", tensors, found)
    return folder


@pytest.fixture(scope="module")
def placed(scripts: Any, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """(root, what was said) of a repository into which the run was shipped."""
    root = tmp_path_factory.mktemp("repository")
    rows = root / "rows.jsonl"
    write_rows(rows, curve(artifact.digest(finished), split="calibrate-choose"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scripts["ship"].NOTES, "digits", "A copy made for tests.")
        said = scripts["ship"].ship(
            finished, "oat-digits", rows=rows, root=root, losses=root / "losses.json", steps=4, verify=False
        )
    return root, said


def test_a_shipped_model_has_points_with_bounds_and_temperatures(placed, finished) -> None:
    root, said = placed
    file = root / "src/rheostat/models/artifacts/oat-digits.safetensors"
    model, about = artifact.load_with(file)
    assert {k: p["robustness"] for k, p in model.points.items()} == {"clean": 0.0, "balanced": 0.5, "robust": 1.0}
    for name in model.points:
        numbers = about.measured[name]
        assert numbers["split"] == "calibrate-choose"
        assert numbers["looked_at"] == 11
        assert numbers["robust_bound"] <= numbers["robust_accuracy"]
        assert model.temperatures[name] == numbers["temperature"] != 1.0
    # The weights are the run's: its rows are the shipped model's.
    assert artifact.digest(file) == artifact.digest(finished)
    assert said[-2].endswith(f"{file.stat().st_size} bytes, sha256 {sha256(file)}, hash {artifact.digest(file)}")
    assert "simultaneously" in said[-3]


def test_a_shipped_file_says_only_what_it_must(placed) -> None:
    root, _ = placed
    _, about = artifact.load_with(root / "src/rheostat/models/artifacts/oat-digits.safetensors")
    assert "scratch" not in about.provenance
    assert about.provenance["data_note"] == "A copy made for tests."
    # Who evaluates it by name checks their own data.
    assert about.provenance["recipe"]["data"]["verify"] is True


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"calibration": "pending"}, "finish its training first"),
        ({"recipe": {"train": {"epochs": 3}}}, "not of the recipe oat-digits: train.epochs differ"),
        ({}, "did not check its copy of digits"),
    ],
)
def test_what_must_not_ship_is_refused(scripts, finished, tmp_path, provenance, message) -> None:
    tensors, found = read_tensors(finished / "model.safetensors")
    changed = json.loads(json.dumps(found))
    if "recipe" in provenance:
        changed["provenance"]["recipe"]["train"] |= provenance["recipe"]["train"]
    else:
        changed["provenance"] |= provenance
    write_tensors(tmp_path / "run" / "model.safetensors", tensors, changed)
    with pytest.raises(ValueError, match=message):
        scripts["ship"].ship(tmp_path / "run", "oat-digits", rows=tmp_path / "none.jsonl", root=tmp_path, verify=False)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_nothing_ships_without_rows_to_choose_from(scripts, finished, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(scripts["ship"].NOTES, "digits", "A copy made for tests.")
    write_rows(tmp_path / "rows.jsonl", curve(artifact.digest(finished)))
    with pytest.raises(ValueError, match="nothing may be chosen on test"):
        scripts["ship"].ship(finished, "oat-digits", rows=tmp_path / "rows.jsonl", root=tmp_path)


def test_the_index_and_pages_are_made_from_files_and_rows(scripts, placed) -> None:
    root, _ = placed
    digest = artifact.digest(root / "src/rheostat/models/artifacts/oat-digits.safetensors")
    standard = [r.model_copy(update={"tier": "standard", "robust_accuracy": 0.5}) for r in curve(digest, 100)]
    fewer = [r.model_copy(update={"robust_accuracy": 0.01}) for r in curve(digest, 50)]
    rows = [*fewer, *curve(digest), *curve("another"), *standard, *curve(digest, split="calibrate-choose")]
    (entry,) = scripts["index"].shipped(root, rows)
    assert zoo.parsed(json.loads(scripts["index"].text([entry]))["models"][0]) == entry
    quick, strong = entry.at(1.0, "quick"), entry.at(1.0, "standard")
    assert (quick.n, quick.robust, strong.n, strong.robust) == (200, 0.61, 100, 0.5)
    assert entry.at(0.0, "quick").clean == 0.95
    page = scripts["pages"].page([entry])
    assert "| 95.0 | 85.0 | 61.0 | 50.0 |" in page
    card = scripts["pages"].card_page(entry, root / "src/rheostat/models/artifacts/oat-digits.safetensors", rows)
    assert "![SA and RA along the dial of oat-digits](oat-digits.png)" in card
    assert "A copy made for tests." in card
    assert "| `balanced` | robustness=0.5 |" in card
    assert "rheostat train oat-digits --out runs/oat-digits" in card
    assert " 50 |" not in card  # the same point on fewer images
    between = made_row(torch.ones(50), run="oat-digits", artifact=digest, at={"robustness": 0.25})
    assert {r.n for r in scripts["index"].along([*rows, between], "quick") if r.artifact == digest} == {200}
    assert card.index("## Data") < card.index("## Measured") < card.index("## Measure and") < card.index("## Limits")


def test_a_file_in_the_wrong_folder_is_refused(scripts, placed, tmp_path) -> None:
    file = placed[0] / "src/rheostat/models/artifacts/oat-digits.safetensors"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="belong in src/rheostat/models/artifacts"):
        scripts["index"].shipped(tmp_path, [])


def test_readmes_picture_is_of_the_model_that_ships_once_it_has_rows(scripts) -> None:
    dials = scripts["dials"]
    entry = dataclasses.replace(zoo.index()["oat-digits"], name=dials.HERO, data="cifar10", digest="d", eps=8 / 255)
    rows = curve("d")
    alone = [made_row(run=f"{dials.DEDICATED}{v}", artifact=v, n=200) for v in ("0", "1")]
    for crosses in ([], alone):
        (axes,) = dials.hero([entry], [*rows, *crosses], []).axes
        assert [len(line.get_xdata()) for line in axes.lines] == [11, len(dials.LABELLED), *([2] if crosses else [])]
        assert list(axes.lines[0].get_ydata()) == pytest.approx([100 * r.clean_accuracy for r in rows])
        assert {t.get_text() for t in axes.texts} == {f"dial at {t:g}" for t in dials.LABELLED}
        assert "CIFAR-10" in axes.get_title()
        text = dials.caption([entry], [*rows, *crosses])
        assert ("Each cross" in text) == bool(crosses)
        assert f"docs/models/{dials.HERO}.md" in text
    # Rows of another model, or fewer than eleven, are no reason to change it.
    for there in ([], rows[:-1], curve("another")):
        assert dials.hero_rows([entry], there)[0] is None
        assert "dashed" in dials.caption([entry], there)


def test_the_sites_navigation_names_the_cards(scripts) -> None:
    entry = zoo.index()["oat-digits"]
    before = scripts["pages"].navigation((BENCHMARKS.parent / "zensical.toml").read_text(), [entry])
    both = [dataclasses.replace(entry, name="a"), entry]
    after = scripts["pages"].navigation(before, both)
    line = '  { "Models" = ["models.md", { "a" = "models/a.md" }, { "oat-digits" = "models/oat-digits.md" }] },'
    assert line in after.splitlines()
    assert scripts["pages"].navigation(after, both) == after
    assert scripts["pages"].navigation(after, [entry]) == before


def test_the_committed_index_is_what_files_and_rows_say(scripts) -> None:
    index = scripts["index"]
    assert index.text(index.shipped()) == (BENCHMARKS.parent / index.INDEX).read_text()
    assert rheostat.load("oat-digits").dials
