"""Models that record neither their images nor their splits, as `fit` saves them: what they lack is said before work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from rheostat.cli.app import main
from rheostat.deploy.choosing import SPLIT
from rheostat.models import artifact
from rheostat.results.rows import add_rows
from support import made_row


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder without a recipe, with two rows on calibrate-choose."""
    model, about = artifact.load_with("oat-digits")
    artifact.save(tmp_path / "model.safetensors", model, dataclasses.replace(about, provenance={}))
    own, bits = artifact.digest(tmp_path), torch.arange(1000) < 800
    rows = [made_row(bits, split=SPLIT, at={"robustness": t}, artifact=own) for t in (0.0, 1.0)]
    add_rows(tmp_path / "rows.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluate", "--data", "digits", "--precision", "int8"],
            "a recipe; int8 takes its ranges from that split; in Python,",
        ),
        (["export", "--int8", "--out", "x.onnx"], "does not record its data set; int8 takes its ranges"),
        (["choose", "--name", "safe"], "store the point in Python: store_point(..., images=(fit, choose))"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_written(
    arguments: list[str], message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    before = sorted(run.iterdir())
    with pytest.raises(SystemExit) as stop:
        main([arguments[0], str(run), *arguments[1:]])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(run.iterdir()) == before
