"""A model says what it is: one line in a terminal, dials, points and costs in a notebook."""

from __future__ import annotations

import re

import rheostat
from rheostat.models.costs import observe
from rheostat.points.dial_map import DialMap
from rheostat.points.point import Point
from support import Plain, make


def test_one_line_in_a_terminal() -> None:
    text = repr(rheostat.adopt(Plain, "oats", image=(3, 8, 8)))
    assert "\n" not in text
    for part in ("Plain, 3 × 8 × 8 → 10 classes", "Slim(", "robustness 0 … 1", "width 0.5, 0.75, 1"):
        assert part in text
    assert "resnet, 3 × 8 × 8 → 10 classes" in repr(make("pgd-at", "resnet-8"))
    assert repr(make("pgd-at", "resnet-8")).endswith("dials: no dials)")


def test_dials_points_and_costs_in_a_notebook() -> None:
    model = make("oats", "resnet-8")
    model.points = {"fast": Point(robustness=0.2, width=0.5), "<b>": Point(robustness=1.0, width=1.0)}
    page = model._repr_html_()
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    assert any("robustness" in row and "training λ" in row for row in rows)
    (fast,) = [row for row in rows if "fast" in row]
    assert f"{observe(model, model.net.image, model.points['fast']).macs / 1e6:.2f} M" in fast
    assert "<td>&lt;b&gt;</td>" in page
    model.dial_map = DialMap((0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    assert "t, calibrated" in model._repr_html_()


def test_live_exits_have_no_one_cost() -> None:
    model = make("rdi", "resnet-8")
    model.points = {"early": model.complete(Point(exit=1.0))}
    assert "the image decides" in model._repr_html_()
