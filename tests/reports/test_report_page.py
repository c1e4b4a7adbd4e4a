"""The report and the card as a reader meets them: words explained, pictures to be seen, nothing hidden."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

import rheostat
from rheostat import EvaluationOptions, data
from rheostat.models import artifact
from rheostat.reports import evaluation_plots as plots
from rheostat.reports.card import card
from rheostat.reports.page import page
from rheostat.results.labels import eps_label
from rheostat.results.row import Row
from rheostat.runtime.files import write_tensors


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Two points of the packaged model on 40 images."""
    few = data.subset(data.load("digits")[1], 40)
    model = rheostat.load("oat-digits")
    return rheostat.evaluate(model, "robustness=0,1", ["fgsm"], few, options=EvaluationOptions(eps=0.2, name="run"))


def test_the_page_explains_its_words_before_it_uses_them(rows) -> None:
    text = page(rows, title="A report")
    first = text.partition("<table>")[0]
    for word in ("<b>SA</b>, standard accuracy", "<b>RA</b>, robust accuracy", "<b>t</b>: the position", "<b>λ</b>"):
        assert word in first
    assert "Attacks: fgsm; linf 0.2; tier quick; split test; n 40." in " ".join(first.split())
    head = re.findall(r"<th>(.*?)</th>", text)
    assert {"tier", "split", "n"} <= set(head)


def test_a_radius_is_written_as_people_write_it(rows) -> None:
    written = {8 / 255: "8/255", 25 / 255: "25/255", 0.1: "0.1", 0.15: "0.15", 1.0: "1", 0.123456: "0.1235"}
    assert {eps: eps_label(eps) for eps in written} == written
    attack = rows[0].attack.model_copy(update={"eps": 8 / 255})
    changed = [r.model_copy(update={"attack": attack.model_copy(update={"name": r.attack.name})}) for r in rows]
    model, about = artifact.load_with("oat-digits")
    about = dataclasses.replace(about, threat={"norm": "linf", "eps": 8 / 255})
    text = card(model, about, changed, name="x", digest="y")
    assert "(linf 8/255)" in text
    assert "linf eps 8/255." in text
    assert "The threat model is linf eps 8/255." in text
    assert "0.031" not in page(changed, title="A report").partition("<h2>Versions")[0]


def test_plots_are_as_wide_as_the_page_and_follow_light_and_dark(rows) -> None:
    text = page(rows, title="A report")
    assert "img{display:block;width:100%" in text
    assert "prefers-color-scheme:dark" in text
    assert text.count('<img class="plot"') >= 2
    assert "http" not in re.sub(r"data:image[^\"]*|http://www.w3.org\S*", "", text)


def test_flags_of_every_row_are_shown(rows) -> None:
    other = next(r for r in rows if r.attack.name == "fgsm").model_copy(update={"flags": ["zero-gradients"]})
    changed = [other if r.identity == other.identity else r for r in rows]
    assert '<b class="flag">zero-gradients</b>' in page(changed, title="A report")
    model, about = artifact.load_with("oat-digits")
    assert "`zero-gradients`" in card(model, about, changed, name="x", digest="y")


def test_bins_of_few_images_are_left_out(rows) -> None:
    worst = next(r for r in rows if r.attack.name == "worst")
    assert worst.calibration is not None
    bins = [(0.3, 0.0, 2 / 40), (0.6, 0.5, 10 / 40), (0.99, 1.0, 28 / 40)]
    calibrated = worst.calibration.model_copy(update={"bins": bins})
    figure = plots.reliability([worst.model_copy(update={"calibration": calibrated})])
    assert figure is not None
    assert figure.axes[0].lines[1].get_xdata().tolist() == [0.6, 0.99]


def test_the_change_of_an_image_is_scaled_to_be_seen(rows, tmp_path) -> None:
    worst = next(r for r in rows if r.attack.name == "worst")
    clean = torch.full((1, 1, 8, 8), 0.5)
    moved = clean + 0.04
    labels = {"labels": torch.tensor([1]), "said": torch.tensor([2])}
    file = tmp_path / "examples.safetensors"
    write_tensors(file, {"clean": clean, "adversarial": moved, **labels}, {})
    figure = plots.examples([worst.model_copy(update={"examples": str(file)})])
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    factor = int(re.findall(r"δ × (\d+)", " ".join(titles))[0])
    assert 20 <= factor <= 25
    shown = torch.as_tensor(figure.axes[1].images[0].get_array())
    assert float(shown.max()) == pytest.approx(0.5 + 0.5 * 0.04 * factor, abs=1e-4)


def test_the_card_has_columns_of_split_and_n_and_explains_its_words(rows) -> None:
    model, about = artifact.load_with("oat-digits")
    text = card(model, about, rows, name="x", digest="y")
    assert "| point | SA % | RA % | attacks | tier | split | n | M MACs | raised |" in text
    assert "| quick | test | 40 |" in text
    assert text.index("SA, standard accuracy") < text.index("| point | SA %")
