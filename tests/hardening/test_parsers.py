"""Every parser of the service and of data files, fuzzed: a value, or an error that was meant; nothing else."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from rheostat.data import DataError, idx, images, pickles
from rheostat.data.mat import read_mat
from rheostat.methods import parse_method
from rheostat.runtime.quantities import quantity
from rheostat.runtime.toml import parse_toml
from rheostat.serve.decoding import Limits, Refusal, decode
from rheostat.serve.policy import parse_policy
from rheostat.serve.tokens import Tokens

pytestmark = pytest.mark.slow
IMAGE = (1, 8, 8)
SLOWEST = 5.0
"""Seconds that one text or file may take."""


def picture(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(buffer, form, **options)
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, *IMAGE), np.float32))
    return buffer.getvalue()


def mat(packed: bool) -> bytes:
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"X": np.zeros((2, 2, 3, 4), np.uint8), "y": np.arange(4.0)[:, None]}, do_compression=packed)
    return buffer.getvalue()


@st.composite
def damaged(draw: st.DrawFn, *wholes: bytes) -> bytes:
    """A whole file with bytes changed, cut, doubled or put in."""
    raw = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        kind = draw(st.sampled_from(("set", "cut", "double", "insert", "number")))
        if kind == "set" and raw:
            raw[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del raw[at : at + draw(st.integers(1, 40))]
        elif kind == "double":
            raw[at:at] = raw[at : at + draw(st.integers(1, 200))]
        elif kind == "insert":
            raw[at:at] = draw(st.binary(max_size=12))
        else:
            raw[at : at + 4] = struct.pack(">I", draw(st.sampled_from((0, 1, 2**16, 2**31 - 1, 2**32 - 1))))
    return bytes(raw)


def file_of(folder: Path, read: Callable[[Path], object], suffix: str) -> Callable[[bytes], object]:
    def run(raw: bytes) -> object:
        path = folder / f"tried{suffix}"
        path.write_bytes(raw)
        return read(path)

    return run


ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)
PICKLES = [pickle.dumps({b"data": ARRAY, b"labels": [1, 2, 3], "x": b"y" * 9}, p) for p in (0, 1, 2, 3, 4)]
IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 3, 4) + bytes(24)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
TOML = b'name = "x"\n[net]\nname = "resnet"\na.b.c = [1, 2.5, {x = "y"}]\n[[run]]\nset = ["a=1"]\n'
STACK = b"Stack(Dual(sets=2, between='blend'), Film(encoding='cosine', dim=8))"
NAMES = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3)
NUMBERS = st.floats(0, 1) | JSON
POLICIES = (
    st.fixed_dictionaries({"ladder": NAMES | JSON}, optional={"target_ms": NUMBERS, "min_robust": NUMBERS}) | JSON
)


def parsers(folder: Path) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], object]]]:
    def body(kind: str) -> Callable[[bytes], object]:
        return lambda raw: decode(raw, kind, IMAGE, Limits(max_pixels=2**18))

    return {
        "npy body": (damaged(npy()) | st.binary(max_size=300).map(npy()[:10].__add__), body("application/x-npy")),
        "PNG body": (damaged(picture("PNG"), picture("PNG", compress_level=0)), body("image/png")),
        "JPEG body": (damaged(picture("JPEG"), picture("JPEG", progressive=True)), body("image/jpeg")),
        "WebP body": (damaged(picture("WEBP"), picture("WEBP", lossless=True)), body("image/webp")),
        "image file": (damaged(*(picture(f) for f in images.FILE_FORMATS)), file_of(folder, images.read_image, ".png")),
        "policy": (st.binary(max_size=99) | POLICIES.map(json.dumps), parse_policy),
        "token file": (st.binary(max_size=200), file_of(folder, lambda p: Tokens((), p), "")),
        "CIFAR pickle": (damaged(*PICKLES) | st.binary(max_size=99), pickles.loads),
        "idx file": (damaged(IDX), file_of(folder, idx.read_idx, "")),
        "idx.gz file": (damaged(gzip.compress(IDX)), file_of(folder, idx.read_idx, ".gz")),
        "mat file": (damaged(*(mat(packed) for packed in (False, True))), file_of(folder, read_mat, ".mat")),
        "TOML file": (damaged(TOML), lambda raw: parse_toml(raw.decode("latin-1"), "x")),
        "composition": (damaged(STACK), lambda raw: parse_method(raw.decode("latin-1"))),
        "quantity": (st.text(max_size=20), lambda text: quantity(text, "", "macs")),
    }


KINDS = tuple(parsers(Path()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_parser_gives_a_value_or_an_error_that_was_meant(
    kind: str, tmp_path: Path, seconds: float, table: dict[str, Counter[str]]
) -> None:
    strategy, run = parsers(tmp_path)[kind]
    outcomes = table.setdefault(kind, Counter())
    end, number = time.monotonic() + seconds, 0

    def once(given: Any) -> None:
        begun = time.monotonic()
        try:
            run(given)
            outcome = "read"
        except (DataError, Refusal, ValueError):
            outcome = "refused"
        assert time.monotonic() - begun < SLOWEST
        outcomes[outcome] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while number == 0 or time.monotonic() < end:
            number += 1
            quick = settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            seed(number)(quick(given(strategy)(once)))()
