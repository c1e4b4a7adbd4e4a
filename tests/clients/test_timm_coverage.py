"""Every method on timm's architectures: it works, or one sentence says why not; docs/adopted.md is made of this."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from coverage import METHODS, NETS, covered, plain
from timm_shim import timm

ROWS = Path(__file__).parents[2] / "benchmarks" / "results" / "adopted.jsonl"
WHOLE = ("resnet18", "convnext_atto")
"""Networks of which every method's ONNX file is compared; of the others FiLM's, whose folded graph is that of all."""
KEPT = ("works", "why", "dials", "macs")
FAST = [("resnet18", "film"), ("mobilenetv3_small_100", "slim"), ("convnext_atto", "exits"), ("resnet18", "exits")]
FAST += [("vit_tiny_patch16_224", "noise"), ("vit_tiny_patch16_224", "slim"), ("regnety_002", "masks")]


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    timm()


def stored() -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of the table, by network and method."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    return {(row["net"], row["method"]): row for row in rows}


def same(row: dict[str, Any]) -> None:
    expected = stored()[row["net"], row["method"]]
    assert {k: row.get(k) for k in KEPT} == {k: expected.get(k) for k in KEPT}


def test_the_table_is_whole() -> None:
    assert set(stored()) == {(net, method) for net in NETS for method in METHODS}


@pytest.mark.parametrize(("net", "method"), FAST)
def test_some_of_the_table(net: str, method: str) -> None:
    same(covered(net, plain(net), method, files=False))


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_the_whole_table_with_files(net: str) -> None:
    """WRITE_COVERAGE=1 writes the rows in place of comparing them."""
    module = plain(net)
    rows = [covered(net, module, method, files=method == "film" or net in WHOLE) for method in METHODS]
    if os.environ.get("WRITE_COVERAGE"):
        kept = {**(stored() if ROWS.is_file() else {}), **{(r["net"], r["method"]): r for r in rows}}
        order = sorted(kept, key=lambda key: (list(NETS).index(key[0]), list(METHODS).index(key[1])))
        ROWS.write_text("".join(json.dumps(kept[key]) + "\n" for key in order))
    for row in rows:
        same(row)
