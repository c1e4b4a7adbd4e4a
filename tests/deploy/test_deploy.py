"""From a curve to files: choosing by bounds, named points, export, quantisation, bench, card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rheostat
from rheostat.calibration.exit_policy import fit_policy
from rheostat.calibration.temperature import fit_temperature
from rheostat.cli.app import main
from rheostat.data import make_splits, subset, to_pixels
from rheostat.deploy.choosing import SPLIT, Need, candidates, choose
from rheostat.deploy.exporting import export
from rheostat.deploy.latency import bench
from rheostat.deploy.onnx_session import Session, unsure
from rheostat.deploy.quantising import measured_again, quantise
from rheostat.methods.composition import compose
from rheostat.models import artifact
from rheostat.models.artifact import About, load_with
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.reports.card import card
from rheostat.results.intervals import lower_bound
from rheostat.results.row import Row
from support import NETS, images_for, made_row


def row(robustness: float, clean: int, robust: int, macs: float = 1e6, n: int = 1000, **more) -> Row:
    bits = [torch.arange(n) < count for count in (clean, robust)]
    cost = {"mean": macs, "p50": macs, "p99": macs}
    return made_row(*bits, **{"split": SPLIT, "at": {"robustness": robustness}, "macs": cost, **more})


CURVE = [row(0, 950, 10), row(0.25, 940, 300), row(0.5, 930, 500), row(0.75, 920, 600, 2e6), row(1, 900, 700)]


def test_the_best_point_that_keeps_the_limits() -> None:
    found = choose(CURVE, Need(min_robust=0.45))
    assert found.chosen is not None
    assert found.chosen.point == Point(robustness=0.5)
    assert found.runner_up is not None
    assert found.runner_up.point == Point(robustness=0.75)
    assert found.chosen.robust_bound < 0.5 < found.chosen.robust + 1e-9
    assert found.looked_at == 5
    assert choose(CURVE, Need(min_robust=0.52, max_macs=1.5e6)).chosen.point == Point(robustness=1)
    assert choose(CURVE, Need(), maximise="robust").chosen.point == Point(robustness=1)
    assert [c.point["robustness"] for c in found.front] == [0, 0.25, 0.5, 0.75, 1]
    dominated = choose([*CURVE, row(0.6, 925, 480)], Need())
    assert 0.6 not in [c.point["robustness"] for c in dominated.front]


def test_none_and_what_comes_nearest() -> None:
    found = choose(CURVE, Need(min_robust=0.8))
    assert found.chosen is None
    assert found.closest.point == Point(robustness=1)
    assert set(found.closest.lacks(found.need)) == {"min_robust"}


def test_more_points_looked_at_mean_lower_bounds() -> None:
    alone = candidates(CURVE[2:3])[0]
    among = next(c for c in candidates(CURVE) if c.point == alone.point)
    assert among.robust_bound < alone.robust_bound
    # 0.5 of 1 000 holds 0.465 alone and not at eleven points: the correction decides.
    many = [row(i / 10, 900, 500) for i in range(11)]
    limit = (alone.robust_bound + candidates(many)[0].robust_bound) / 2
    assert choose([CURVE[2]], Need(min_robust=limit)).chosen is not None
    assert choose(many, Need(min_robust=limit)).chosen is None


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_bound_holds_its_level(case: tuple[int, int]) -> None:
    from scipy.stats import binom

    k, n = case
    low = lower_bound(k, n, confidence=0.95)
    assert 0 <= low <= k / n
    # At the bound, seeing k or more is exactly as unlikely as was said.
    assert k == 0 or binom.sf(k - 1, n, low) == pytest.approx(0.05, abs=1e-6)


def test_nothing_is_chosen_on_test() -> None:
    with pytest.raises(ValueError, match="nothing is chosen on test"):
        choose([r.model_copy(update={"split": "test"}) for r in CURVE], Need())
    with pytest.raises(ValueError, match="several models"):
        choose([CURVE[0], CURVE[1].model_copy(update={"artifact": "b"})], Need())
    with pytest.raises(ValueError, match="did you mean 'clean'"):
        choose(CURVE, Need(), maximise="cleen")
    with pytest.raises(ValueError, match="share from 0 to 1"):
        Need(min_robust=45)


def test_a_temperature_makes_probabilities_mean_something() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, abs=0.15)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder: the packaged model, its rows on calibrate-choose."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    folder.mkdir()
    shutil.copy(artifact.packaged()["oat-digits"], folder / "model.safetensors")
    main(["evaluate", str(folder), "--split", SPLIT, "--at", "robustness=0,0.5,1", "--threads", "1"])
    return folder


def test_chosen_stored_and_used_by_name(run: Path, capsys) -> None:
    before = artifact.digest(run)
    main(["choose", str(run), "--min-robust", "0.3", "--max-latency", "1s", "--name", "safe", "--threads", "1"])
    text = " ".join(capsys.readouterr().out.split())
    assert "measured under pgd20" in text
    assert "guarantee" not in text
    assert "upper bounds under the attacks named" in text
    # The hash is of what decides outputs: rows measured before still belong to this file.
    assert artifact.digest(run) == before
    model, about = load_with(run)
    at = model.at("safe")
    numbers = about.measured["safe"]
    assert numbers["split"] == SPLIT
    assert numbers["robust_bound"] >= 0.3
    x = images_for(model)
    assert torch.equal(at(x), model(x, model.points["safe"]))
    assert torch.allclose(at.probabilities(x), (at(x) / numbers["temperature"]).softmax(1))
    assert numbers["ece_after"] <= numbers["ece_before"] + 0.02
    with pytest.raises(SystemExit) as stop:
        main(["choose", str(run), "--min-robust", "0.99"])
    assert stop.value.code == 1
    assert "none of the measured points" in capsys.readouterr().out
    with pytest.raises(ValueError, match="comes with the package"):
        artifact.name_point("oat-digits", "safe", Point(), {})
    with pytest.raises(ValueError, match="starts with a letter"):
        artifact.name_point(run, "Safe point", Point(), {})


def trained(paper: str, net: str, **options) -> Tunable:
    """A network whose statistics and conditioning are not at rest."""
    torch.manual_seed(0)
    model = Tunable(NETS[net](), compose(paper, **options))
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
    with pytest.raises(ValueError, match="dial is live"):
        session(x.numpy())


def test_widths_are_graphs_of_their_own(tmp_path: Path) -> None:
    model = trained("oats", "small_cnn")
    files = export(model, About(), tmp_path / "m.onnx", live=True)
    assert len(files) == len(model.dials["width"].values)
    x = images_for(model, 4)
    for file, width in zip(files, model.dials["width"].values, strict=True):
        expected = model(x, Point(robustness=0.5, width=width)).detach()
        assert torch.allclose(torch.from_numpy(Session(file)(x.numpy(), 0.5)), expected, atol=1e-4, rtol=1e-4)


def test_stages_leave_early_as_the_model_does(digits, tmp_path: Path) -> None:
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
        def run(self, names, inputs):
            seen.append(len(inputs["features"]))
            return later.run(names, inputs)

    ran.stages[1] = Watched()
    ran(shown.numpy())
    assert 0 < seen[0] < 40
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


def test_what_a_point_costs() -> None:
    model, about = load_with("oat-digits")
    found = bench(model, about, [model.complete(Point(robustness=1.0))], seconds=0.05)
    assert [c.form for c in found] == ["eager", "folded", "ONNX Runtime"]
    assert all(0 < c.p50[b] <= c.p99[b] for c in found for b in (1, 32))
    assert len({c.macs for c in found}) == 1


def test_a_card_says_what_was_measured(run: Path, capsys) -> None:
    main(["card", str(run)])
    text = capsys.readouterr().out
    assert "| t = 1 | calibrate-choose |" in text
    assert "pgd20 (linf 0.2)" in text
    assert "Nothing is guaranteed" in text
    model, about = load_with("oat-digits")
    empty = card(model, about, [], name="x", digest="d")
    assert "Nothing has been measured" in empty


def test_the_command_line_speaks_plainly(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["choose", "oat-digits"], "no rows beside oat-digits"),
        (["choose", str(run), "--max-macs", "20X"], "cannot read macs '20X'"),
        (["export", str(run), "--at", "sage"], "no point named 'sage'"),
        (["export", str(run), "--at", "robustness=0,1"], "one point is exported at a time"),
        (["export", str(run), "--dial", "liv"], "did you mean 'live'"),
        (["serve", "oat-digits"], "has no named points to serve"),
        (["serve", "oat-digits", "--unmeasured-points", "--open-policy", "--host", "0.0.0.0"], "set a token"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    main(["export", str(run), "--at", "robustness=1"])
    assert "wrote digits.onnx" in capsys.readouterr().out
    assert rheostat.load(run).at(robustness=1.0) is not None
