"""A CUDA device gives what the CPU gives: logits, training in bf16, robust accuracy. Skipped without one.

`RHEOSTAT_TEST_DEVICE=cpu` runs the same checks with the CPU in its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import rheostat
from rheostat import data
from rheostat.attacks import Attack
from rheostat.cli.app import main
from rheostat.deploy.judging import measure_in
from rheostat.evaluation.attacked import outcome
from rheostat.evaluation.lookup import Request
from rheostat.evaluation.options import EvaluationOptions
from rheostat.models import artifact
from rheostat.models.artifact import About
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.intervals import share
from rheostat.serve.backends import service
from rheostat.training.loop import train
from rheostat.training.recipe import load_recipe
from support import images_for

NAME = os.environ.get("RHEOSTAT_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "")
pytestmark = pytest.mark.skipif(not NAME, reason="no CUDA device")


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The device, in full precision: TF32 would round products to 10 bits."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [s.allow_tf32 for s in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield torch.device(NAME)
    for switch, was in zip(switches, before, strict=True):
        switch.allow_tf32 = was


def test_logits_agree_at_every_end(model: Tunable, device: torch.device) -> None:
    x = images_for(model)
    points = [Point()]
    points += [Point(**{d.name: v}) for d in model.dials.values() for v in d.positions(3)]
    with torch.no_grad():
        expected = [model(x, p) for p in points]
        model.to(device)
        model.to_layout(torch.channels_last)
        for point, logits in zip(points, expected, strict=True):
            found = model(x.to(device), point).cpu()
            assert torch.allclose(found, logits, atol=1e-3 * float(logits.abs().max())), point


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("paper", ["oat", "float", "smart", "rdi"])
def test_bf16_trains_like_fp32(paper: str, compiled: bool, device: torch.device, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        recipe = load_recipe(
            "oat-digits",
            changes=[
                f"paper={paper}",
                "method={}",
                "train.max_steps=20",
                "calibrate_dial=false",
                "select.images=50",
                "select.steps=2",
                f"device.name={device}",
                f"device.precision={precision}",
                f"device.compile={str(compiled).lower()}",
            ],
        )
        done = train(recipe, out=tmp_path / precision)
        losses[precision] = done.progress.epochs[-1]["loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_robust_accuracy_agrees_within_half_a_point(device: torch.device) -> None:
    model, about = artifact.load_with("oat-digits")
    _, test = data.load("digits")
    attack = Attack("pgd", about.threat["eps"], 20)
    found = []
    for place in (torch.device("cpu"), device):
        there = model.to(place)
        here = test.to(place)
        found.append([share(outcome(there, Point(robustness=t), here, attack).robust) for t in (0.0, 0.5, 1.0)])
    assert found[1] == pytest.approx(found[0], abs=0.005)


def test_an_adopted_network_that_its_factory_puts_there_is_served_on_the_cpu(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = "nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)"
    (tmp_path / "elsewhere.py").write_text(
        f"from torch import nn\n\n\ndef make():\n    return nn.Sequential({layers}).to({NAME!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = rheostat.adopt("elsewhere:make", "dual", image=(1, 8, 8))
    model.points = {"safe": model.complete(Point(robustness=1.0))}
    recipe = {"name": "digits", "calibrate": 200, "train_images": None, "split_seed": 0}
    provenance, classes = {"recipe": {"data": recipe}}, tuple("0123456789")
    model.about = About(classes, {"norm": "linf", "eps": 0.2}, provenance)
    model.save(tmp_path / "model.safetensors")
    # Files are judged on the CPU as well.
    request = Request(str(tmp_path), at="robustness=1", examples=10, net="elsewhere:make")
    (row,) = measure_in("int8", request, EvaluationOptions())
    assert row.n == 10
    main(["export", str(tmp_path), "--int8", "--net", "elsewhere:make", "--out", str(tmp_path / "x.onnx")])
    assert (tmp_path / "x-int8.onnx").is_file()
    for backend in ("torch", "onnx"):
        served = service(str(tmp_path / "model.safetensors"), backend=backend, net="elsewhere:make", most=2)
        assert served.runs["safe"](np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 10)
