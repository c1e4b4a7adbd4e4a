"""Files made to harm: pickles, images, headers that ask for too much, pipes with an image's name."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rheostat.data import DataError, cifar, folders, idx, images, pickles, tiny_imagenet
from rheostat.data.base import read_regular

RECONSTRUCT = np.zeros(1).__reduce__()[0]


class Kind:
    """A dtype of pointers whose own state says that it holds none."""

    def __reduce__(self):
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


class Pointers:
    """An array of that dtype: its bytes are taken for addresses of objects."""

    def __reduce__(self):
        return RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2,), Kind(), False, b"\x41" * 16)


def array(kind: object, shape: tuple, raw: object, *, fortran: object = False) -> bytes:
    """A pickled array of these parts, whatever they are."""

    class Made:
        def __reduce__(self):
            return RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, fortran, raw)

    return pickle.dumps({b"data": Made()}, 2)


READ = """
import sys
from pathlib import Path
from rheostat.data import DataError, cifar
try:
    cifar.cifar10(sums={})(Path(sys.argv[1]))
except DataError as error:
    print(error)
"""


def test_a_dtype_with_a_state_of_its_own_is_refused_and_nothing_crashes(tmp_path: Path) -> None:
    """On the old reader numpy followed the bytes as pointers: SIGSEGV."""
    pixels = np.zeros((10_000, 3072), np.uint8)
    batch = pickle.dumps({b"data": pixels, b"labels": [Pointers()] * 10_000}, 2)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (tmp_path / name).write_bytes(batch)
    found = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "data_batch_1: refused, holds an array of O8" in found.stdout


def test_arrays_are_compared_with_their_bytes() -> None:
    u1 = np.dtype("u1")
    plain = pickles.loads(array(u1, (2, 3), b"abcdef"))[b"data"]
    assert plain.tolist() == [[97, 98, 99], [100, 101, 102]]
    assert pickles.loads(array(u1, (2, 3), b"abcdef", fortran=True))[b"data"].tolist() == [
        [97, 99, 101],
        [98, 100, 102],
    ]
    for hostile in (
        array(u1, (2, 4), b"abcdef"),
        array(u1, (2**62, 2**62), b"abcdef"),
        array(u1, (-1, 6), b"abcdef"),
        array(u1, (True, 6), b"abcdef"),
        array(u1, (), b"a"),
        array(u1, (1,) * 40, b"a"),
        array(u1, (6,), [1, 2]),
        array(np.dtype("i8"), (1,), b"abcdefgh"),
        array(np.dtype("O"), (1,), b"abcdefgh"),
        array(np.dtype([("a", "u1")]), (1,), b"a"),
        array(np.dtype("u1", metadata={"a": 1}), (1,), b"a"),
        array("u1", (1,), b"a"),
    ):
        with pytest.raises(DataError):
            pickles.loads(hostile)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"N",
        b"(.",
        b"e.",
        b"]Nb.",
        b"cposix\nsystem\n(S'id'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        b"cnumpy\nndarray\n(K\x00tR.",
        b"cnumpy\nndarray\n)\x81.",
        b"cnumpy\ndtype\n}(X\x01\x00\x00\x00aK\x01ub.",
        b"Pid\n.",
        b"\x82\x01.",
        b"NK\x01K\x02s.",
        b"}K\x01K\x02s.",
        b"]r\xff\xff\xff\xff" * 9 + b"q",
        b"(" * 100_000 + b"t" * 100_000 + b"." + b"}" + b"0",
        b"})" + b"\x85" * 200_000 + b"K\x01s.",
        b"I" + b"9" * 100_000 + b"\n.",
    ],
    ids=range(19),
)
def test_pickles_that_do_anything_but_hold_data_are_refused(raw: bytes) -> None:
    begun = time.monotonic()
    try:
        pickles.loads(raw)
    except DataError:
        pass
    else:
        assert raw.startswith(b"((")  # nested tuples are data
    assert time.monotonic() - begun < 20


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text("cnumpy\ndtype()KMtRb.}]sau\x85\x86q\x01N", max_size=60).map(str.encode))
def test_no_bytes_get_anything_but_data_out_of_a_pickle(raw: bytes) -> None:
    with contextlib.suppress(DataError):
        pickles.loads(raw)


def test_a_pickle_cannot_encode_one_text_again_and_again() -> None:
    """A megabyte in the memo, encoded 10 000 times: on the reader before, 10 GB of bytes from 1.1 MB."""
    text = b"x" * 2**20
    start = (
        b"\x80\x02](c_codecs\nencode\nq\x00X"
        + struct.pack("<I", len(text))
        + text
        + b"q\x01X\x06\x00\x00\x00latin1q\x02"
    )
    again = b"h\x00h\x01h\x02\x86R"
    with pytest.raises(DataError, match="the same text repeatedly"):
        pickles.loads(start + again * 10_000 + b"e.")
    assert len(pickles.loads(start + again + b"e.")) == 4


def test_lists_of_files_stay_inside_their_folder(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "wnids.txt").write_text("n1\n../../etc\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("../../a.JPEG\tn1\n")
    with pytest.raises(DataError, match="is not the name of a folder"):
        tiny_imagenet.read(tmp_path)
    (tmp_path / "wnids.txt").write_text("n1\n")
    with pytest.raises(DataError, match="line 1 does not name a file"):
        tiny_imagenet.read(tmp_path)
    (tmp_path / "wnids.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not text"):
        tiny_imagenet.read(tmp_path)


def test_a_folder_does_not_ask_for_more_than_the_memory(tmp_path: Path, monkeypatch) -> None:
    for i in range(3):
        Image.new("L", (64, 64)).save(tmp_path / f"{i}.png")
    files = [(tmp_path / f"{i}.png", 0) for i in range(3)]
    assert len(folders.assembled("x", files, ("a",))) == 3
    monkeypatch.setattr(folders, "memory", lambda: 30_000)
    with pytest.raises(DataError, match="3 images of 12288 bytes exceed the memory"):
        folders.assembled("x", files, ("a",))


def test_python_batches_are_compared_with_their_checksums_wherever_they_lie(tmp_path: Path, monkeypatch) -> None:
    pixels = np.zeros((10_000, 3072), np.uint8)
    for inside in (tmp_path / "a", tmp_path / "b" / "cifar-10-batches-py"):
        inside.mkdir(parents=True)
        (inside / "data_batch_1").write_bytes(pickle.dumps({b"data": pixels, b"labels": [0] * 10_000}, 2))
    for folder in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(DataError, match=r"data_batch_1: md5 .* expected c99cafc1"):
            cifar.cifar10(sums=cifar.CIFAR10_BATCHES)(folder)
    raw = pickle.dumps({"data": np.zeros((50_000, 3072), np.uint8), "fine_labels": [1] * 50_000}, 2)
    (tmp_path / "train").write_bytes(raw)
    with pytest.raises(DataError, match=r"train: md5 .* expected 16019d7e"):
        cifar.cifar100(sums=cifar.CIFAR100_BATCHES)(tmp_path)
    assert cifar.read_pickle(tmp_path / "train", hashlib.md5(raw).hexdigest())["fine_labels"][0] == 1


def test_labels_of_a_batch_are_small_whole_numbers(tmp_path: Path) -> None:
    for label in (2**70, -1, True, b"x", [1]):
        batch = {b"data": np.zeros((10_000, 3072), np.uint8), b"labels": [label] * 10_000}
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
        with pytest.raises(DataError, match="must hold labels from 0 to 255 only"):
            cifar.cifar10(sums={})(tmp_path)


def test_an_idx_file_is_unpacked_no_further_than_its_header(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"

    def refused(shape: tuple[int, ...], data: bytes, match: str) -> None:
        path.write_bytes(gzip.compress(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + data, 1))
        with pytest.raises(DataError, match=match):
            idx.read_idx(path)

    refused((1, 2, 2), bytes(2**26), "more than the 4 bytes that its header")
    refused((0,), bytes(2**26), "more than the 0 bytes that its header")
    refused((2**32 - 1,) * 3, b"abc", "its header declares")
    refused((2**20, 28, 28), b"abc", "its header declares")


def test_sixteen_bits_become_eight_and_do_not_saturate(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)).save(path)
    assert images.read_image(path)[:, 0].tolist() == [[0, 1, 128, 255]] * 3


def progressive(scans: int, size: int = 64) -> bytes:
    """A progressive JPEG with its last scan repeated: legal, small, and as slow as one likes."""
    buffer = io.BytesIO()
    Image.new("L", (size, size), 100).save(buffer, "JPEG", progressive=True)
    raw = buffer.getvalue()
    last = raw.rindex(b"\xff\xda")
    return raw[:last] + raw[last:-2] * scans + raw[-2:]


def header(form: str, width: int, height: int) -> bytes:
    """An image whose header promises more pixels than it has."""
    buffer = io.BytesIO()
    Image.new("L" if form == "PNG" else "RGB", (8, 8)).save(
        buffer, form, **({"lossless": True} if form == "WEBP" else {})
    )
    raw = bytearray(buffer.getvalue())
    if form == "PNG":
        import zlib

        raw[16:24] = struct.pack(">II", width, height)
        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    elif form == "BMP":
        raw[18:26] = struct.pack("<ii", width, height)
    else:
        bits = int.from_bytes(raw[21:25], "little") & ~0xFFFFFFF
        raw[21:25] = (bits | (width - 1) | (height - 1) << 14).to_bytes(4, "little")
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (progressive(12_000), "more than 64 scans"),
        (header("PNG", 60_000, 60_000), "60000 × 60000|more than"),
        (header("PNG", 9_000, 9_000), "9000 × 9000"),
        (header("BMP", 9_000, 9_000), "9000 × 9000"),
        (header("WEBP", 16_000, 16_000), "16000 × 16000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a complete"),
    ],
    ids=range(6),
)
def test_images_are_bounded_before_they_are_unpacked(tmp_path: Path, raw: bytes, match: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(raw)
    begun = time.monotonic()
    with pytest.raises(DataError, match=match):
        images.read_image(path)
    assert time.monotonic() - begun < 5


def test_scans_cannot_hide_behind_a_marker_without_a_length() -> None:
    raw = progressive(200)
    first = raw.index(b"\xff\xda")
    with pytest.raises(images.ImageProblem, match="more than 64 scans"):
        images._check_scans(raw[:first] + b"\xff\x01\xff\xff" + raw[first:], 64, 2**20)
    images._check_scans(progressive(1), 64 * 64, 2**20)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for read in (images.read_image, idx.read_idx, cifar.read_pickle):
        with pytest.raises(DataError, match="not a regular file"):
            read(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        read_regular(tmp_path, 9)
    with pytest.raises(DataError, match="not readable"):
        read_regular(tmp_path / "absent", 9)
    (tmp_path / "long").write_bytes(b"0123456789")
    with pytest.raises(DataError, match="10 bytes; the limit is 9"):
        read_regular(tmp_path / "long", 9)
