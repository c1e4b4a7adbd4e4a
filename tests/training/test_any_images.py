"""A recipe on a folder of images of several sizes: its rule is in the file, and evaluation follows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from rheostat import data
from rheostat.cli.app import main
from rheostat.evaluation.lookup import find_data, find_target
from rheostat.models import artifact
from rheostat.results.rows import read_rows
from rheostat.runtime.choices import NoEffectWarning
from rheostat.training.loop import fingerprint, train
from rheostat.training.recipe import load_recipe

QUICK = [
    *("train.max_steps=1", "train.batch=8", "select.images=4", "select.steps=1", "data.calibrate=8"),
    *("data.train_images=16", "calibrate_dial=false", "attack.steps=1"),
]


def tree(root: Path) -> Path:
    """Twelve images of two classes in each half, of two sizes."""
    for half in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / half / name).mkdir(parents=True)
            for i in range(12):
                size = (20, 12) if i % 2 else (9, 15)
                Image.new("RGB", size, (10 * i, 100 * label, 50)).save(root / half / name / f"{i}.png")
    return root


def test_a_recipe_states_the_rule_and_evaluation_follows_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "own")
    changes = [*QUICK, "data.size=[8, 12]", "data.resize=pad", "data.mode=L"]
    more = [word for change in changes for word in ("--set", change)]
    main(["train", "oat-digits", "--data", "folder:own", "--out", "runs/own", *more])
    rule = data.Preprocessing((8, 12), "pad", "L")
    assert artifact.load_with("runs/own")[1].preprocessing == rule
    target = find_target("runs/own", name=None, between=None)
    found = find_data(target, None, "test", data_dir=None, examples=None, verify=True)
    assert torch.equal(found.images, data.load("folder:own", preprocessing=rule)[1].images)
    main(["evaluate", "runs/own", "--at", "robustness=0,1", "--attack", "fgsm"])
    assert {row.n for row in read_rows("runs/own/rows.jsonl")} == {24}


def test_a_rule_that_does_nothing_is_said_and_changes_no_run() -> None:
    plain = load_recipe("oat-digits")
    with pytest.warns(NoEffectWarning, match=r"data\.resize has no effect, because data\.size is not given"):
        other = load_recipe("oat-digits", changes=["data.resize=pad"])
    assert fingerprint(plain, 1) == fingerprint(other, 1)
    assert fingerprint(plain, 1) != fingerprint(load_recipe("oat-digits", changes=["data.size=[8, 8]"]), 1)
    with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
        load_recipe("oat-digits", changes=["data.size=[8, 0]"])


def test_a_run_takes_its_own_images_and_no_others(tmp_path: Path) -> None:
    own = tree(tmp_path / "own")
    recipe = load_recipe("oat-digits", changes=[*QUICK, "data.size=[8, 12]", f"data.name=folder:{own}"])
    done = train(recipe, out=tmp_path / "run")
    assert done.splits is not None
    assert {row.n for row in done.evaluate(done.splits.test, [{"robustness": 0.0}], "fgsm")} == {24}
    assert train(recipe, out=tmp_path / "run").about.provenance == done.about.provenance
    target = find_target(str(tmp_path / "run"), name=None, between=None)

    def found(split: str) -> int:
        return len(find_data(target, None, split, data_dir=None, examples=None, verify=True))

    assert found("calibrate-choose") == 4
    Image.new("RGB", (9, 9)).save(own / "train" / "cat" / "new.png")
    with pytest.raises(ValueError, match="the images have changed since this run began"):
        train(recipe, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"have changed since .* was trained, so 'calibrate-choose'"):
        found("calibrate-choose")
    assert found("test") == 24
