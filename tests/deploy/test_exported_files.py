"""Files for other runtimes: parity, live dials, widths, stages, int8."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rheostat
from rheostat.calibration.exit_policy import fit_policy
from rheostat.data import make_splits, subset, to_pixels
from rheostat.deploy import exporting
from rheostat.deploy.exporting import export
from rheostat.deploy.latency import bench
from rheostat.deploy.onnx_session import Session, unsure
from rheostat.deploy.quantising import measured_again, quantise
from rheostat.methods.composition import compose
from rheostat.models.artifact import About, load_with
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from support import MORE_NETS, NETS, Break, images_for


def trained(paper: str, net: str, **options) -> Tunable:
    """A network whose statistics and conditioning are not at rest."""
    torch.manual_seed(0)
    model = Tunable((NETS | MORE_NETS)[net](), compose(paper, **options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "mean" in name or "var" in name:
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


CASES = [
    ("pgd-at", "resnet-8"),
    ("dual", "small_cnn"),
    ("oat", "resnet-8"),
    ("oats", "resnet-8"),
    ("float", "wide_resnet"),
    ("floats", "resnet-8"),
    ("smart", "resnet-8"),
    ("oat", "mobilenet_v2"),
    ("oats", "resnet-8, silu"),
    ("smart", "resnet-8, silu"),
    ("rdi-slim-dual", "resnet-8, silu"),
]


@pytest.mark.parametrize(("paper", "net"), CASES)
def test_a_folded_file_gives_what_the_model_gives(paper: str, net: str, tmp_path: Path) -> None:
    model = trained(paper, net)
    point = Point(robustness=1.0) if "robustness" in model.dials else Point()
    (file,) = export(model, About(), tmp_path / "m.onnx", at=point)
    session = Session(file, threads=1)
    for count in (1, 5):
        x = images_for(model, count)
        expected = model(x, point).detach()
        assert torch.allclose(torch.from_numpy(session(x.numpy())), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="write x / 255"):
        session(255 * x.numpy())
    assert session.about["composition"] == repr(model.method)
    assert session.about["preprocessing"]["image"] == list(model.net.image)


def test_a_live_dial_is_an_input(digits, tmp_path: Path) -> None:
    model, about = load_with("oat-digits")
    (file,) = export(model, about, tmp_path / "live.onnx", live=True)
    x = to_pixels(digits[1].images[:9])
    levels = torch.linspace(0, 1, 9)
    session = Session(file, threads=1)
    expected = model(x, Point(robustness=levels)).detach()
    assert torch.allclose(torch.from_numpy(session(x.numpy(), levels.numpy())), expected, atol=1e-4)
    one = torch.from_numpy(session(x.numpy(), 0.3))
    assert torch.allclose(one, model(x, Point(robustness=0.3)).detach(), atol=1e-4)
    assert session.about["classes"] == list(about.classes)
    with pytest.raises(ValueError, match="has a live dial"):
        session(x.numpy())
    with pytest.raises(ValueError, match="'robustness' takes a value from 0 to 1, given 2"):
        session(x.numpy(), 2.0)


def test_widths_are_graphs_of_their_own(tmp_path: Path) -> None:
    model = trained("oats", "small_cnn")
    files = export(model, About(), tmp_path / "m.onnx", live=True)
    assert len(files) == len(model.dials["width"].values)
    x = images_for(model, 4)
    for file, width in zip(files, model.dials["width"].values, strict=True):
        expected = model(x, Point(robustness=0.5, width=width)).detach()
        assert torch.allclose(torch.from_numpy(Session(file)(x.numpy(), 0.5)), expected, atol=1e-4, rtol=1e-4)


def dies_at(name: str) -> Callable[[Tensor, Tensor, Path], None]:
    """A comparison of a file with its model that breaks off at this file."""

    def compared(found: Tensor, expected: Tensor, out: Path) -> None:
        if out.name == name:
            raise Break

    return compared


def test_stages_leave_early_as_the_model_does(digits, tmp_path: Path, monkeypatch) -> None:
    model = trained("rdi", "resnet-8")
    # Thresholds are uncertainties of images they are fitted on: other images are shown, of which none lies on one.
    images, others = (images_for(model, 80) * 255).to(torch.uint8).split(40)
    labels = torch.arange(40) % 10
    from rheostat.data import Dataset

    fit = Dataset("x", images, labels, tuple("0123456789"), "calibrate-fit")
    fit_policy(model, fit)
    point = Point(exit=1.0)
    files = export(model, About(), tmp_path / "m.onnx", at=point)
    assert len(files) == len(model.net.exits) + 1
    ran = Session(files[0], threads=1)
    shown = to_pixels(others)
    assert torch.allclose(torch.from_numpy(ran(shown.numpy())), model(shown, point).detach(), atol=1e-4)
    # What left does not run on: the second stage sees fewer rows.
    seen = []
    later = ran.stages[1]

    class Watched:
        def run(self, inputs):
            seen.append(len(inputs["features"]))
            return later.run(inputs)

    ran.stages[1] = Watched()
    ran(shown.numpy())
    assert 0 < seen[0] < 40
    # Stages of another export are refused, and an export that dies changes no file.
    before = [file.read_bytes() for file in files]
    with torch.no_grad():
        next(model.parameters()).mul_(1.1)
    monkeypatch.setattr(exporting, "_compare", dies_at("m.stage-1.onnx"))
    with pytest.raises(Break):
        export(model, About(), files[0], at=point)
    assert [file.read_bytes() for file in files] == before
    monkeypatch.undo()
    others = export(model, About(), tmp_path / "other.onnx", at=point, artifact="other")
    files[1].write_bytes(others[1].read_bytes())
    with pytest.raises(ValueError, match=r"m\.stage-1\.onnx is not stage 1 of the export in m\.onnx"):
        Session(files[0])
    files[1].write_bytes(before[2])
    with pytest.raises(ValueError, match=r"m\.stage-1\.onnx is not stage 1"):
        Session(files[0])
    with pytest.raises(ValueError, match="ONNX stages"):
        export(model, About(), tmp_path / "m.pt2", at=point, to="torch")


def test_torch_export_and_refusals(tmp_path: Path) -> None:
    model, about = load_with("oat-digits")
    (file,) = export(model, about, tmp_path / "m.pt2", at=Point(robustness=1.0), to="torch")
    extra = {"rheostat.json": ""}
    again = torch.export.load(file, extra_files=extra).module()
    x = images_for(model, 7)
    assert torch.allclose(again(x), model(x, Point(robustness=1.0)), atol=1e-4)
    assert json.loads(extra["rheostat.json"])["classes"] == list(about.classes)
    with pytest.raises(ValueError, match="did you mean 'onnx'"):
        export(model, about, tmp_path / "m", to="onx")
    with pytest.raises(ValueError, match="not one fixed network"):
        export(trained("float", "resnet-8", draw="sampled"), About(), tmp_path / "m.onnx", at=Point(robustness=1.0))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not an ONNX file"):
        Session(tmp_path / "bad.onnx")
    assert not list(tmp_path.glob(".*"))


def peaks() -> nn.Module:
    """A network with a layer that ONNX cannot express: 7 × 7 features are pooled to 3 × 3."""
    features = nn.Sequential(nn.Conv2d(1, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*features, nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(72, 10))


def test_a_network_that_onnx_cannot_express_is_refused_in_one_line_and_benched_without_a_file(tmp_path: Path) -> None:
    model = rheostat.adopt(peaks(), "dual", image=(1, 28, 28))
    point = Point(robustness=1.0)
    with pytest.raises(ValueError, match=r"robustness=1 cannot be written as ONNX: .*max_pool2d.* --backend torch"):
        export(model, About(), tmp_path / "m.onnx", at=point)
    assert list(tmp_path.iterdir()) == []
    events: list[dict] = []
    found = bench(model, About(), [point], seconds=0.05, int8=True, report=events.append)
    assert [c.form for c in found] == ["eager", "folded"]
    assert "cannot be written as ONNX" in next(e["why"] for e in events if e["event"] == "no-file")


def test_a_file_states_the_numbers_of_a_point_only_if_they_are_its_own(digits, tmp_path: Path) -> None:
    model, about = load_with("oat-digits")
    model.points["safe"] = model.points["fast"] = Point(robustness=1.0)
    own = {"robust_accuracy": 0.6, "temperature": 2.0}
    about = dataclasses.replace(about, measured={"safe": own, "fast": {**own, "precision": "int8"}})

    def stated(file: Path) -> tuple:
        return tuple(Session(file).about[k] for k in ("name", "measured", "temperature"))

    (safe,) = export(model, about, tmp_path / "safe.onnx", at="safe")
    assert stated(safe) == ("safe", own, 2.0)
    (fast,) = export(model, about, tmp_path / "fast.onnx", at="fast")
    (live,) = export(model, about, tmp_path / "live.onnx", at="safe", live=True)
    small = quantise(safe, tmp_path / "int8.onnx", to_pixels(digits[0].images[:64]))
    assert [stated(file) for file in (fast, live, small)] == 3 * [(None, {}, 1.0)]


def test_int8_is_measured_again(digits, tmp_path: Path) -> None:
    model, about = load_with("oat-digits")
    point = Point(robustness=1.0)
    (file,) = export(model, about, tmp_path / "m.onnx", at=point)
    splits = make_splits(*digits, calibrate=200, seed=0)
    made = quantise(file, tmp_path / "q.onnx", to_pixels(splits.fit.images))
    assert Session(made).about["quantised"] == "int8"
    found = measured_again(model, point, made, subset(digits[1], 100), eps=0.2)
    assert found["clean_accuracy"] > found["float_clean_accuracy"] - 0.05
    assert found["robust_accuracy"] <= found["robust_accuracy_square"] <= found["clean_accuracy"]
    assert found["robust_accuracy"] < found["clean_accuracy"] - 0.1


def test_uncertainty_is_that_of_the_policy() -> None:
    from rheostat.attacks.multi_exit import MEASURES, uncertainty

    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 3
    for measure in MEASURES:
        assert torch.allclose(
            torch.from_numpy(unsure(logits.numpy(), measure)), uncertainty(logits, measure), atol=1e-5
        )
