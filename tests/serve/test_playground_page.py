"""What the playground shows, without a browser."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("gradio")

from rheostat import EvaluationOptions, Point, data, evaluate
from rheostat.attacks import named
from rheostat.evaluation.attacked import attack_chunk, victim_at
from rheostat.models import artifact, zoo
from rheostat.models.costs import exit_costs
from rheostat.serve import measured, playground
from support import made_row, make


@pytest.fixture(scope="module")
def shipped():
    return (*artifact.load_with("oat-digits"), data.load("digits")[1])


def test_it_opens_on_an_image_that_the_attack_turns_until_the_dial_is_turned(shipped) -> None:
    model, about, test = shipped
    number = playground.opening(model, about, test)
    x, label = data.to_pixels(test.images[number : number + 1]), test.labels[number : number + 1]
    attack = named("pgd10", eps=about.threat["eps"], norm=about.threat["norm"])
    point = Point(**{d.name: d.rest for d in model.dials.values()})
    for at, turned in ((point, True), (point.replace(robustness=1.0), False)):
        with torch.no_grad():
            assert int(model(x, at).argmax()) == int(label)
        moved = attack_chunk(victim_at(model, at), x, label, attack, (0, "look")).adversarial
        with torch.no_grad():
            assert (int(model(moved, at).argmax()) != int(label)) is turned
    assert playground.opening(model, about, None) == 0


@pytest.mark.parametrize("verify", [True, False])
def test_a_test_set_that_cannot_be_read_is_said(verify: bool, shipped, monkeypatch, caplog) -> None:
    """A grey image was shown instead, without a word, also of a copy for which the recipe asks no checksums."""
    asked: list[bool] = []

    def load(name: str, *, verify: bool, **more: object) -> None:
        asked.append(verify)
        raise data.DataError("no folder here")

    monkeypatch.setattr(data, "load", load)
    about = replace(shipped[1], provenance={"recipe": {"data": {"name": "digits", "verify": verify}}})
    assert playground._test(about, None) is None
    assert asked == [verify]
    assert "no test images, but takes uploaded ones: no folder here" in caplog.text


def test_the_change_is_scaled_to_be_seen() -> None:
    clean = torch.full((1, 1, 2, 2), 0.5)
    moved = clean + torch.tensor([[[[0.01, -0.01], [0.0, 0.005]]]])
    assert torch.allclose(playground._change(clean, moved), torch.tensor([[[[1.0, 0.0], [0.5, 0.75]]]]), atol=1e-4)
    assert torch.equal(playground._change(clean, clean), clean)


def test_the_nearest_measured_numbers_are_named(shipped) -> None:
    model, about, test = shipped
    few = data.subset(test, 20)
    rows = evaluate(model, "robustness=0,1", ["fgsm"], few, options=EvaluationOptions(eps=0.2))
    look = playground.viewer(model, about.classes, about, measured.from_rows(rows), test)
    shown = look(None, 0, 0.2, 0.9)
    assert len(shown) == 8
    assert shown[2].size == (playground.SHOWN, playground.SHOWN)
    assert "Nearest measured point, t = 1: SA" in shown[6]
    assert "fgsm" in shown[6]
    assert "n 20" in shown[6]
    assert "rheostat evaluate" in measured.nearest_text([], Point())


def test_where_exits_are_live_the_cost_is_that_of_the_image_shown() -> None:
    model, at = make("rdi", "resnet-8"), Point(exit=1.0)
    x = torch.rand(1, *model.net.image)
    for threshold, leave in ((9.0, 0), (0.0, -1)):
        model.net.get_buffer("thresholds").fill_(threshold)
        text = playground._cost(model, at, x)
        costs = exit_costs(model, at).macs
        assert text.startswith(f"{costs[leave] / 1e6:.2f} M MACs, ")
        assert text.endswith(
            f" ms here for this image, which leaves at exit {range(len(costs))[leave] + 1} of {len(costs)}"
        )


def test_the_measured_curve_is_of_one_attack_split_and_number_of_images() -> None:
    bits = torch.arange(8) < 4
    curve = [made_row(bits, at={"robustness": t}) for t in (0.0, 0.5, 1.0)]
    standard = {"name": "worst", "of": ["pgd20", "square"], "norm": "linf", "eps": 0.1}
    others = [
        made_row(bits, at={"robustness": 0.7}, split="calibrate-choose"),
        made_row(bits, at={"robustness": 0.7}, tier="standard", attack=standard),
        made_row(torch.arange(9) < 4, at={"robustness": 0.7}),
        made_row(bits, at={"robustness": 0.7}, rule="at-0"),
    ]
    line = measured.from_rows([*others, *curve])
    assert line == [measured.Measured.of_row(row) for row in curve]
    assert "t = 0.5" in measured.nearest_text(line, Point(robustness=0.7))


def test_a_model_that_ships_has_the_figures_of_the_index(shipped) -> None:
    """It has no rows beside it; a page without a number on many images would show one image and prove nothing."""
    entry = zoo.index()["oat-digits"]
    line = measured.from_index(entry)
    assert [m.at["robustness"] for m in line] == [0.0, 0.5, 1.0]
    found = measured.nearest_text(line, Point(robustness=0.9))
    expected = entry.at(1.0, "standard")
    assert f"t = 1: SA {100 * expected.clean:.1f}" in found
    assert "apgd-t" in found
    assert f"n {expected.n}" in found
    ring = measured.curve(line, Point(robustness=0.9)).axes[0].lines[-1]
    assert ring.get_xdata()[0] == pytest.approx(100 * expected.robust)
    assert measured.from_index(None) == []


def test_the_page_of_a_model_that_ships_is_built_with_them(monkeypatch) -> None:
    given = []
    monkeypatch.setattr(playground, "build", lambda model, about, line, test: given.extend(line))
    monkeypatch.setattr(playground.gr, "mount_gradio_app", lambda web, page, path: web)
    playground.mount(None, "oat-digits")
    assert given == measured.from_index(zoo.index()["oat-digits"])
