"""The sections on precision: a mean difference has the image as its unit, and tables show what rows hold."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

PAGES = Path(__file__).parents[2] / "benchmarks" / "pages"


@pytest.fixture(scope="module", autouse=True)
def pages():
    sys.path.insert(0, str(PAGES))
    yield
    sys.path.remove(str(PAGES))


def test_the_unit_of_a_mean_difference_is_the_image() -> None:
    """Twice the same seed is no more evidence than once; opposite differences of two seeds cancel."""
    from precisions import mean_difference

    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 400, generator=generator) < 0.6
    once, twice = mean_difference([(a, b)]), mean_difference([(a, b), (a, b)])
    assert once == pytest.approx(twice)
    each = a.double() - b.double()
    assert once[2] - once[1] == pytest.approx(2 * 1.959964 * float(each.std()) / math.sqrt(400), rel=1e-6)
    assert mean_difference([(a, b), (b, a)]) == pytest.approx((0, 0, 0))


def test_a_bias_is_seen() -> None:
    from precisions import mean_difference

    a = torch.ones(1000, dtype=torch.bool)
    b = a.clone()
    b[:60] = False
    value, low, high = mean_difference([(a, b), (a, b)])
    assert value == pytest.approx(0.06)
    assert 0.04 < low < value < high < 0.08


def test_the_table_of_runtimes_names_the_fastest_form() -> None:
    from latencies import runtimes, steps

    times = {"eager": 9.0, "folded": 8.0, "ONNX Runtime": 6.0, "OpenVINO": 6.5, "OpenVINO bf16": 2.0}
    row = {
        "net": "ResNet-20",
        "part": "whole",
        "batch": 32,
        "milliseconds": {k: {"median": v, "threads": 1} for k, v in times.items()},
        "gaps": dict.fromkeys(times, 1e-6) | {"OpenVINO bf16": 0.01},
        "hardware": {"device": "a chip"},
    }
    text = runtimes([row])
    assert "| ResNet-20 | whole | 32 | 9.00 | 8.00 | 6.00 |  | 6.50 | 2.00 |  | OpenVINO bf16 | 3.0 |" in text
    assert "1e-06 of the largest logit, in bf16 by 1e-02" in text
    assert "Not yet run" in runtimes([])
    assert "Not yet run" in steps([])
