"""Export, folding and loading leave a model as they find it; int8 is judged image by image."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from rheostat.data import subset
from rheostat.deploy import quantising
from rheostat.deploy.exporting import export
from rheostat.evaluation.attacked import Chunk
from rheostat.methods.composition import compose
from rheostat.models import artifact
from rheostat.models.artifact import About
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from support import NETS, make


def test_export_leaves_layout_mode_weights_and_generators(tmp_path: Path) -> None:
    model = make("oat", "small_cnn").to_layout(torch.channels_last).train()

    def state() -> list[object]:
        return [
            (k, v.data_ptr(), v.stride(), v.device, v.requires_grad)
            for k, v in (*model.named_parameters(), *model.named_buffers())
        ]

    before, generator = state(), torch.get_rng_state()
    root = logging.getLogger()
    logger = (root.level, list(root.handlers))
    fold(model, Point(robustness=1.0))
    export(model, About(), tmp_path / "m.pt2", at=Point(robustness=1.0), to="torch")
    assert state() == before
    assert all(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert (root.level, list(root.handlers)) == logger


@pytest.mark.parametrize("alpha", ["fixed", "free"])
def test_what_is_not_trained_is_not_trained_after_loading(alpha: str, tmp_path: Path) -> None:
    model = Tunable(NETS["small_cnn"](), compose("float", alpha=alpha))
    trained = {k: p.requires_grad for k, p in model.named_parameters()}
    path = artifact.save(tmp_path / "m.safetensors", model)
    assert {k: p.requires_grad for k, p in artifact.load(path).named_parameters()} == trained
    assert all(trained.values()) == (alpha == "free")


def test_an_image_that_either_attack_fools_does_not_count(digits, monkeypatch) -> None:
    """The lower of two accuracies was taken: attacks that fool different images then look like one."""
    fit = subset(digits[1], 20)
    rows = torch.arange(len(fit))
    fooled = {"float": rows < 5, "file": (rows >= 5) & (rows < 12)}

    class File(torch.nn.Module):
        """Right on every image but those that are all white."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wrong = x.flatten(1).amin(1) == 1
            labels = torch.where(wrong, (fit.labels + 1) % 10, fit.labels)
            return torch.nn.functional.one_hot(labels, 10).float()

    def attacked(aim, x, y, attack, *seeds, **options) -> Chunk:
        kind = "file" if attack.name.startswith("square") else "float"
        moved = x.clone()
        moved[fooled[kind]] = 1.0
        none = torch.zeros(len(y), dtype=torch.bool)
        return Chunk(~none, ~fooled[kind], moved, 1, none, none, torch.stack([fooled[kind], none]))

    monkeypatch.setattr(quantising, "Session", lambda path: None)
    monkeypatch.setattr(quantising, "SessionModule", lambda session: File())
    monkeypatch.setattr(quantising, "attack_chunk", attacked)
    model = artifact.load("oat-digits")
    found = quantising.measured_again(model, Point(), Path("m.onnx"), fit, eps=0.1)
    assert found["robust_accuracy_transfer"] == 0.75
    assert found["robust_accuracy_square"] == 0.65
    assert found["robust_accuracy"] == 0.4
