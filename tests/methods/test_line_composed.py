"""A composition that no paper has: weights on a line × widths × exits, folded at a fixed exit, exported and served."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from rheostat import nets
from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session
from rheostat.methods import Dual, Exits, Slim, Stack
from rheostat.methods.line import Ends, Line
from rheostat.models import artifact
from rheostat.models.costs import observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.serve.app import make_app
from rheostat.serve.backends import service
from rheostat.serve.policy import Policy
from support import train_step

SMALL = Point(robustness=0.3, width=0.5, depth=2)
"""A named point between the ends of all three dials, at a fixed exit."""


@pytest.fixture(scope="module")
def model() -> Tunable:
    """Three dials on one network, its ends moved apart, trained for a few steps."""
    torch.manual_seed(0)
    net = nets.resnet(depth=14, base_width=8, image=(1, 8, 8))
    model = Tunable(net, Stack(Line(), Dual(), Slim((0.5, 1.0)), Exits(heads="light", defence="average")))
    with torch.no_grad():
        for ends in (m for m in model.modules() if isinstance(m, Ends)):
            ends.other.add_(0.05 * torch.randn(ends.other.shape))
    for seed in range(2):
        train_step(model, seed)
    return model.eval()


def test_every_exit_has_both_ends_and_a_step_trains_all_of_it(model: Tunable) -> None:
    assert set(model.dials) >= {"robustness", "width", "exit", "depth"}
    heads = [m for m in model.net.get_submodule("exits").modules() if isinstance(m, Ends)]
    assert heads
    x = torch.rand(4, 1, 8, 8)
    for width in (0.5, 1.0):
        levels = torch.tensor([0.0, 0.3, 1.0, 0.7])
        mixed = model(x, Point(robustness=levels, width=width, depth=2))
        for row, level in enumerate(levels.tolist()):
            alone = model(x[row : row + 1], Point(robustness=level, width=width, depth=2))[0]
            assert torch.allclose(mixed[row], alone, atol=1e-4)


def test_a_fixed_exit_folds_to_a_smaller_plain_network(model: Tunable) -> None:
    x = torch.rand(3, 1, 8, 8)
    folded = fold(model, SMALL)
    expected = model(x, SMALL)
    assert (folded(x) - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
    whole, part = observe(model, model.net.image), observe(folded, model.net.image)
    assert part.macs < 0.5 * whole.macs
    assert part.params < 0.5 * whole.params
    with pytest.raises(ValueError, match="not fitted yet"):
        fold(model, SMALL.replace(exit=1.0))


def test_it_is_exported_and_served(model: Tunable, tmp_path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    (file,) = export(model, artifact.About(), tmp_path / "small.onnx", at=SMALL)
    found = torch.from_numpy(Session(file, threads=1)(x.numpy()))
    assert torch.allclose(found, model(x, SMALL), atol=1e-4, rtol=1e-4)
    path = artifact.save(tmp_path / "model.safetensors", model)
    artifact.name_point(path, "small", SMALL, {"robust_bound": 0.2})
    app = make_app(service(str(path), threads=1), Policy(("small",)))
    with TestClient(app) as client:
        body = npy(x.numpy())
        answer = client.post("/v1/predict", content=body, headers={"Content-Type": "application/x-npy"})
    assert answer.status_code == 200
    probabilities = torch.tensor(answer.json()["probabilities"])
    assert torch.allclose(probabilities, model(x, SMALL).softmax(1), atol=1e-4)
    assert answer.json()["point"] == "small"


def npy(array: np.ndarray) -> bytes:
    """The bytes of an array's file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
