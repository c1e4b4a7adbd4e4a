"""What a model's file says of its run is not trusted: it may come from anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rheostat
from rheostat.evaluation.lookup import Request, find_data, find_target, settled
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.models import artifact
from rheostat.models.artifact import About


def found(folder: Path, recipe: dict[str, Any], name: str | None = None) -> tuple[Request, Target]:
    """A file whose provenance holds this recipe, and the target of it."""
    about = About(tuple("0123456789"), {"norm": "linf", "eps": 0.2}, {"recipe": recipe})
    file = artifact.save(folder / "m.safetensors", rheostat.load("oat-digits"), about)
    return Request(str(file)), find_target(str(file), name=name, between=None)


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "a/b", ".."])
def test_a_file_chooses_no_folder_outside_runs(name: str, tmp_path: Path) -> None:
    request, target = found(tmp_path, {"name": name})
    with pytest.raises(ValueError, match=r"m\.safetensors names its run .* give --name or --out"):
        settled(request, EvaluationOptions(), target)
    out = tmp_path / "rows.jsonl"
    assert settled(request, EvaluationOptions(out=out), target).out == out
    request, target = found(tmp_path, {"name": name}, "mine")
    assert settled(request, EvaluationOptions(name="mine"), target).out == Path("runs/mine/rows.jsonl")


def test_a_file_names_a_folder_in_runs(tmp_path: Path) -> None:
    for recipe, folder in (({"name": "my run, v1.2"}, "my run, v1.2"), ({}, "m")):
        request, target = found(tmp_path, recipe)
        assert settled(request, EvaluationOptions(), target).out == Path("runs") / folder / "rows.jsonl"


def test_a_recipe_without_the_numbers_of_its_splits_has_none(tmp_path: Path) -> None:
    _, target = found(tmp_path, {"data": {"name": "digits"}})
    with pytest.raises(ValueError, match="known only for models trained with a recipe; use --split test"):
        find_data(target, None, "calibrate-fit", data_dir=None, examples=None, verify=True)
