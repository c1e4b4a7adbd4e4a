"""Training that diverges stops at once, says where, and keeps the last good checkpoint."""

from __future__ import annotations

import pytest

from rheostat.runtime.files import read_tensors
from rheostat.training.loop import train
from rheostat.training.recipe import load_recipe


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path) -> None:
    changes = ["train.epochs=2", "train.batch=32", "attack.steps=1", "select.images=10", "train.lr=1e6"]
    changes += ["train.schedule=constant", "train.checkpoint_seconds=0", "calibrate_dial=false"]
    with pytest.raises(ValueError, match=r"training diverged at step \d+ of \d+, learning rate 1e\+06: ") as found:
        train(load_recipe("oat-digits", changes=changes), out=tmp_path)
    assert "lower train.lr" in str(found.value)
    assert not (tmp_path / "model.safetensors").exists()
    checkpoint = tmp_path / "checkpoint.safetensors"
    if checkpoint.exists():
        assert all(bool(v.isfinite().all()) for v in read_tensors(checkpoint)[0].values() if v.is_floating_point())
