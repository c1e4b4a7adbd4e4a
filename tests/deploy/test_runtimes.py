"""The same file under ONNX Runtime and OpenVINO: parity, stages, threads, precision, refusals."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_exported_files import trained

from rheostat.calibration.exit_policy import fit_policy
from rheostat.data import Dataset
from rheostat.deploy import fastest
from rheostat.deploy.exporting import export
from rheostat.deploy.fastest import fastest_runtime, installed
from rheostat.deploy.onnx_session import Session
from rheostat.deploy.quantising import quantise
from rheostat.deploy.runtimes import OpenVinoGraph, open_graph
from rheostat.models.artifact import About, load_with
from rheostat.points.point import Point
from rheostat.serve.backends import service
from support import images_for

# Not of the development extra: with OpenVINO loaded, Python later loses its standard error under pytest's capture.
pytest.importorskip("openvino", exc_type=ImportError)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, about = load_with("oat-digits")
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    return export(model, about, path, at=Point(robustness=1.0))[0]


@pytest.mark.parametrize("paper", ["oat", "floats"])
def test_openvino_gives_what_the_model_gives(paper: str, tmp_path: Path) -> None:
    model = trained(paper, "resnet-8")
    (path,) = export(model, About(), tmp_path / "m.onnx", at=Point(robustness=1.0))
    session = Session(path, runtime="openvino", threads=1)
    assert session.precision == "fp32"
    assert session.about["composition"] == repr(model.method)
    for count in (1, 5):
        x = images_for(model, count)
        expected = model(x, Point(robustness=1.0)).detach()
        assert torch.allclose(torch.from_numpy(session(x.numpy())), expected, atol=1e-4, rtol=1e-4)


def test_live_dials_and_stages_run_too(tmp_path: Path) -> None:
    model = trained("oat", "resnet-8")
    (path,) = export(model, About(), tmp_path / "live.onnx", live=True)
    x, levels = images_for(model, 4), torch.linspace(0, 1, 4)
    found = Session(path, runtime="openvino", threads=1)(x.numpy(), levels.numpy())
    assert torch.allclose(torch.from_numpy(found), model(x, Point(robustness=levels)).detach(), atol=1e-4, rtol=1e-4)
    exits = trained("rdi", "resnet-8")
    fit_policy(exits, Dataset("x", (images_for(exits, 40) * 255).byte(), torch.arange(40) % 10, tuple("0123456789")))
    first = export(exits, About(), tmp_path / "stages.onnx", at=Point(exit=1.0))[0]
    y = images_for(exits, 6).numpy()
    ours, theirs = (Session(first, runtime=name, threads=1)(y) for name in ("onnx", "openvino"))
    assert np.allclose(ours, theirs, atol=1e-4)


def test_an_int8_file_runs_under_both(file: Path, tmp_path: Path) -> None:
    x = images_for(load_with("oat-digits")[0], 32)
    small = quantise(file, tmp_path / "q.onnx", x)
    ours, theirs = (Session(small, runtime=name, threads=1)(x.numpy()) for name in ("onnx", "openvino"))
    # Kernels round sums differently; a step of the output's own scale is what they may differ by.
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(ours).max()
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.9


def test_threads_do_not_mix_answers(file: Path) -> None:
    session = Session(file, runtime="openvino", threads=1)
    x = images_for(load_with("oat-digits")[0], 8).numpy()
    expected, wrong = [session(x[i : i + 1]) for i in range(8)], []

    def ask(number: int) -> None:
        answers = [session(x[number : number + 1]) for _ in range(50)]
        wrong.extend(a for a in answers if not np.array_equal(a, expected[number]))

    workers = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_precision_is_what_the_chip_has(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert Session(file, runtime="openvino", precision="auto").precision == ("bf16" if native else "fp32")
    if native:
        fast, exact = (Session(file, runtime="openvino", precision=p) for p in ("bf16", "fp32"))
        x = images_for(load_with("oat-digits")[0], 32).numpy()
        assert np.allclose(fast(x), exact(x), atol=0.02 * np.abs(exact(x)).max())
    else:
        with pytest.raises(ValueError, match="does not multiply bf16"):
            open_graph(file, runtime="openvino", precision="bf16")
    with pytest.raises(ValueError, match="ONNX Runtime has no bf16"):
        open_graph(file, precision="bf16")


def test_mistakes_are_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="openvino"):
        open_graph(file, runtime="openvno")
    with pytest.raises(ValueError, match="no file"):
        open_graph(tmp_path / "none.onnx", runtime="openvino")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x01 not a model")
    with pytest.raises(ValueError, match=r"bad\.onnx: not an ONNX file") as problem:
        open_graph(tmp_path / "bad.onnx", runtime="openvino")
    assert "\n" not in str(problem.value)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"rheostat\[openvino\]"):
        OpenVinoGraph(file, threads=1, precision="fp32")


def test_the_faster_runtime_serves(file: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    assert installed() == ("onnx", "openvino")
    with caplog.at_level(logging.INFO, logger="rheostat.deploy.fastest"):
        best = fastest_runtime(file, (1, 8, 8), threads=1, seconds=0.02)
    assert best in installed()
    assert f"backend {best}" in caplog.text
    chosen = []
    monkeypatch.setattr(fastest, "installed", lambda: ("openvino",))
    assert fastest_runtime(file, (1, 8, 8)) == "openvino"
    monkeypatch.setattr(fastest, "installed", tuple)
    with pytest.raises(ValueError, match=r"rheostat\[deploy\]"):
        fastest_runtime(file, (1, 8, 8))
    images = images_for(load_with("oat-digits")[0], 3).numpy()
    for backend in ("onnx", "openvino", "torch"):
        served = service("oat-digits", backend=backend, threads=1, every=True)
        chosen.append(served.runs["t-1"](images))
    assert np.allclose(chosen[0], chosen[1], atol=1e-4)
    assert np.allclose(chosen[0], chosen[2], atol=1e-4)


def test_a_batch_of_any_size_gives_each_image_its_own_answer(file: Path) -> None:
    """A server's queue and early exit change the size at every call; no answer may depend on it."""
    session = Session(file, runtime="openvino", threads=1)
    x = torch.rand(37, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    each = np.concatenate([session(row[None]) for row in x])
    for rows in (0, 1, 8, 9, 13, 32, 33, 37):
        found = session(x[:rows])
        assert found.shape == (rows, 10)
        np.testing.assert_allclose(found, each[:rows], atol=1e-4)
