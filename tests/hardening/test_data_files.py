"""Data files made to harm, each kind once: pickles, image files, folders of images."""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_bodies import pictures

from rheostat.data import DataError, folders, images, pickles

SLOWEST = 10.0
PICKLES_BEFORE, FOLDERS_BEFORE = 28, 16
"""Kinds of the trial that this one repeats."""


def _long(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


PICKLES: dict[str, bytes] = {
    "empty": b"",
    "stop alone": b".",
    "None": b"N.",
    "no stop": b"N",
    "a mark alone": b"(.",
    "append to nothing": b"]Nb.",
    "os.system": b"cposix\nsystem\n(S'id'\ntR.",
    "os.system by stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    "eval": b"c__builtin__\neval\n(S'1'\ntR.",
    "builtins.getattr": b"cbuiltins\ngetattr\n(S'a'\nS'b'\ntR.",
    "an instance": b"(S'id'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'id'\no.",
    "new object": b"cnumpy\nndarray\n)\x81.",
    "new object by keywords": b"cnumpy\nndarray\n)}\x92.",
    "ndarray called": b"cnumpy\nndarray\n(K\x00tR.",
    "dtype of objects": b"cnumpy\ndtype\n(S'O8'\nK\x00K\x01tR.",
    "dtype with a state": b"cnumpy\ndtype\n(S'u1'\nK\x00K\x01tR"
    b"(K\x03S'|'\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb.",
    "dtype built by a dict": b"cnumpy\ndtype\n}(X\x01\x00\x00\x00aK\x01ub.",
    "numpy.load": b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
    "codecs.open": b"c_codecs\nopen\n(S'/etc/passwd'\ntR.",
    "codecs.decode": b"c_codecs\ndecode\n(S'x'\nS'hex'\ntR.",
    "persistent id": b"Pid\n.",
    "persistent id by stack": b"K\x01Q.",
    "extension": b"\x82\x01.",
    "next buffer": b"\x80\x05\x97.",
    "memo of 2**32": b"]r\xff\xff\xff\xff" * 9 + b"q",
    "memo that is absent": b"h\x07.",
    "list inside itself": b"]q\x00h\x00a.",
    "100 000 marks": b"(" * 100_000 + b"t" * 100_000 + b".",
    "200 000 tuples in a key": b"})" + b"\x85" * 200_000 + b"K\x01s.",
    "100 000 digits": b"I" + b"9" * 100_000 + b"\n.",
    "4 GB of text": b"X\xff\xff\xff\xff" + b"x" * 99,
    "2**62 bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"x" * 99,
    "2 million opcodes": b"N0" * 1_000_000 + b"N.",
    "one text encoded 10 000 times": b"\x80\x02](c_codecs\nencode\nq\x00"
    + _long(b"x" * 2**20)
    + b"q\x01"
    + _long(b"latin1")
    + b"q\x02"
    + b"h\x00h\x01h\x02\x86R" * 10_000
    + b"e.",
}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _text(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _whole(size: int = 8) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


ENTRIES: dict[str, Callable[[Path], None]] = {
    "a pipe": _pipe,
    "a folder with an image's name": lambda path: path.mkdir(),
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to nothing": _link("absent"),
    "a link to itself": _link("b.png"),
    "a link to a folder above": _link(".."),
    "an empty file": _text(b""),
    "text": _text(b"hello"),
    "another size": _text(_whole(9)),
    **{name: _text(body) for name, (body, _) in pictures().items() if name.split()[-1] in ("side", "cut", "zeros")},
}


def _trees(root: Path) -> dict[str, Path]:
    """Trees with one thing wrong each."""
    found: dict[str, Path] = {}

    def tree(name: str, *folders_: str) -> Path:
        folder = found[name] = root / str(len(found))
        for inside in folders_:
            (folder / inside).mkdir(parents=True)
        return folder

    tree("nothing").mkdir()
    tree("no test", "train/a")
    tree("no train", "test/a")
    tree("no images", "train/a", "test/a")
    tree("no classes", "train", "test")
    tree("a class of the test alone", "train/a", "test/b")
    (tree("train a file", "test/a") / "train").write_bytes(b"x")
    for name, make in ENTRIES.items():
        folder = tree(name, "train/a", "test/a")
        for half in ("train", "test"):
            (folder / half / "a" / "a.png").write_bytes(_whole())
        make(folder / "train" / "a" / "b.png")
    return found


def _tried(run: Callable[[], object], outcomes: Counter[str]) -> str:
    begun = time.monotonic()
    try:
        run()
        outcome = "read"
    except DataError:
        outcome = "refused"
    assert time.monotonic() - begun < SLOWEST
    outcomes[outcome] += 1
    return outcome


def test_hostile_pickles_hold_data_or_are_refused(table: dict[str, Counter[str]]) -> None:
    assert len(PICKLES) > PICKLES_BEFORE
    outcomes = table.setdefault("kinds of hostile pickle", Counter())
    read = [kind for kind, raw in PICKLES.items() if _tried(lambda raw=raw: pickles.loads(raw), outcomes) == "read"]
    assert set(read) <= {"None", "list inside itself", "100 000 marks"}


def test_hostile_image_files_are_read_or_refused(tmp_path: Path, table: dict[str, Counter[str]]) -> None:
    outcomes = table.setdefault("kinds of hostile image file", Counter())
    for body, _ in pictures().values():
        (tmp_path / "a.png").write_bytes(body)
        _tried(lambda: images.read_image(tmp_path / "a.png"), outcomes)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_hostile_folders_are_refused(tmp_path: Path, table: dict[str, Counter[str]]) -> None:
    outcomes, trees = table.setdefault("kinds of hostile folder", Counter()), _trees(tmp_path)
    assert len(trees) > FOLDERS_BEFORE
    for kind, folder in trees.items():
        assert _tried(lambda folder=folder: folders.read(folder), outcomes) == "refused", kind
