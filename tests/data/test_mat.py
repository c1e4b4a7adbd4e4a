"""MATLAB files: what scipy writes is read; sizes are those of the bytes; the rest is refused in one line."""

from __future__ import annotations

import io
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from rheostat.data import DataError, svhn
from rheostat.data.mat import read_mat

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def part(kind: int, content: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(content) if size is None else size) + content + bytes(-len(content) % 8)


def matrix(
    shape: tuple[int, ...],
    values: bytes,
    *,
    kind: int = 9,
    stored: int = 2,
    flags: int = 0,
    name: bytes = b"X",
    size: int | None = None,
) -> bytes:
    """The bytes of an array's element, without its own tag, whatever they say."""
    dimensions = struct.pack(f"<{len(shape)}i", *shape)
    head = part(6, bytes([kind, flags, 0, 0, 0, 0, 0, 0])) + part(5, dimensions) + part(1, name)
    return head + part(stored, values, size)


def packed(content: bytes, size: int | None = None) -> bytes:
    inner = zlib.compress(struct.pack("<II", 14, len(content) if size is None else size) + content, 9)
    return struct.pack("<II", 15, len(inner)) + inner


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes_is_read(tmp_path: Path, compressed: bool) -> None:
    arrays = {
        "X": np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5),
        "y": np.array([[1.5], [10.0]]),
        "n": np.array([[-3]], np.int16),
        "empty": np.zeros((0, 4), np.uint8),
    }
    savemat(tmp_path / "a.mat", arrays, do_compression=compressed)
    found = read_mat(tmp_path / "a.mat")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array), name


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no header": b"x" * 200,
    "MATLAB 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" * 100,
    "element longer than the file": HEADER + struct.pack("<II", 14, 2**32 - 1),
    "element of another type": HEADER + part(2, b"12345678"),
    "shape of 2**93 values": HEADER + part(14, matrix((2**31 - 1,) * 3, b"1234")),
    "negative shape": HEADER + part(14, matrix((-1, -4), b"1234")),
    "9 dimensions": HEADER + part(14, matrix((1,) * 9, b"1")),
    "no dimensions": HEADER + part(14, matrix((), b"1")),
    "values longer than the array": HEADER + part(14, matrix((2, 2), b"1234", size=2**31)),
    "half a number": HEADER + part(14, matrix((1, 1), b"12345", stored=9)),
    "values of no type": HEADER + part(14, matrix((2, 2), b"1234", stored=14)),
    "complex": HEADER + part(14, matrix((2, 2), b"1234", flags=8)),
    "a cell": HEADER + part(14, matrix((2, 2), b"1234", kind=1)),
    "an object": HEADER + part(14, matrix((2, 2), b"1234", kind=3)),
    "a sparse array": HEADER + part(14, matrix((2, 2), b"1234", kind=5)),
    "a function": HEADER + part(14, matrix((2, 2), b"1234", kind=16)),
    "a name of 2 000 letters": HEADER + part(14, matrix((2, 2), b"1234", name=b"x" * 2000)),
    "flags of no bytes": HEADER + part(14, part(6, b"")),
    "100 variables": HEADER + b"".join(part(14, matrix((1, 1), b"1", name=b"v%d" % i)) for i in range(100)),
    "compressed, asks for 4 GB": HEADER + packed(bytes(100), size=2**32 - 8),
    "compressed, more than it says": HEADER + packed(bytes(2**26), size=64),
    "compressed, less than it says": HEADER + packed(bytes(1000), size=9000),
    "compressed, compressed inside": HEADER + struct.pack("<II", 15, 20) + zlib.compress(b"\x0f\x00\x00\x00" * 4)[:20],
    "not compressed": HEADER + struct.pack("<II", 15, 16) + b"x" * 16,
    "sixteen times 64 MB": HEADER
    + b"".join(packed(matrix((2**13, 2**13), bytes(2**26), name=b"v%d" % i)) for i in range(9)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_before_they_take_memory(tmp_path: Path, kind: str) -> None:
    """scipy's reader unpacks whatever a file holds, and follows cells, objects and functions."""
    path = tmp_path / "a.mat"
    path.write_bytes(HOSTILE[kind])
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(DataError, match=r"a\.mat: not a complete \.mat file"):
        read_mat(path)
    assert time.monotonic() - begun < 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**30


def test_svhn_takes_its_own_shapes_and_labels_alone(tmp_path: Path) -> None:
    images = np.arange(32 * 32 * 3 * 2, dtype=np.uint8).reshape(32, 32, 3, 2)

    def halves(**arrays: np.ndarray) -> None:
        buffer = io.BytesIO()
        savemat(buffer, arrays, do_compression=True)
        for half in ("train", "test"):
            (tmp_path / f"{half}_32x32.mat").write_bytes(buffer.getvalue())

    halves(X=images, y=np.array([[10], [3]], np.uint8))
    train, _ = svhn.read(tmp_path)
    assert train.labels.tolist() == [0, 3]
    assert train.images[1, 2, 3, 4] == images[3, 4, 2, 1]
    for arrays, match in (
        ({"X": images}, "no variables 'X' and 'y'"),
        ({"X": images[:, :16], "y": np.array([[1], [1]])}, r"'X' is \(32, 16, 3, 2\)"),
        ({"X": images.astype(float), "y": np.array([[1], [1]])}, "'X' is"),
        ({"X": images, "y": np.array([[1]])}, "expected 2 labels from 1 to 10"),
        ({"X": images, "y": np.array([[1], [11]])}, "from 1 to 10"),
        ({"X": images, "y": np.array([[1], [-1]])}, "from 1 to 10"),
        ({"X": images, "y": np.array([[1.5], [1]])}, "from 1 to 10"),
        ({"X": images, "y": np.array([[np.nan], [1]])}, "from 1 to 10"),
    ):
        halves(**arrays)
        with pytest.raises(DataError, match=match):
            svhn.read(tmp_path)
