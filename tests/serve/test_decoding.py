"""Bodies: pictures of any size, and hostile ones, which are refused with a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fakes import IMAGE, NPY, npy
from PIL import Image

from rheostat.serve.decoding import Limits, Refusal, decode


def picture(form: str, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 120 if mode in ("L", "P") else (120,) * len(mode)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_any_size(form: str) -> None:
    found = decode(picture(form, (20, 13), "RGB"), f"image/{form.lower()}", IMAGE, Limits())
    assert found.shape == (1, *IMAGE)
    assert found.dtype == np.float32
    assert np.allclose(found, 120 / 255, atol=0.02)
    assert decode(picture(form, mode="RGB"), f"image/{form.lower()}", (3, 8, 8), Limits()).shape == (1, 3, 8, 8)


def bomb() -> bytes:
    """A PNG header of 60 000 × 60 000 pixels, a few bytes long."""
    found = bytearray(picture("PNG"))
    found[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    found[29:33] = zlib.crc32(bytes(found[12:29])).to_bytes(4, "big")
    return bytes(found)


GOOD = np.zeros((2, *IMAGE), np.float32)
NOISE = np.random.default_rng(0).random((2, *IMAGE)).astype(np.float32)
ARRAY = NPY["Content-Type"]
HOSTILE = [
    (b"", "image/png", 400),
    (b"x", "text/plain", 415),
    (b"x", "", 415),
    (b"\0" * 99, "image/png", 422),
    (picture("PNG")[:40], "image/png", 422),
    (picture("JPEG"), "image/png", 422),
    (bomb(), "image/png", 413),
    (npy(GOOD)[:-3], ARRAY, 422),
    (npy(GOOD) + b"x", ARRAY, 422),
    (npy(GOOD[:, :, :7]), ARRAY, 422),
    (npy(GOOD.astype(np.float64)), ARRAY, 422),
    (npy(np.asfortranarray(NOISE)), ARRAY, 422),
    (npy(GOOD + np.nan), ARRAY, 422),
    (npy(GOOD + 2), ARRAY, 422),
    (npy(GOOD - 1), ARRAY, 422),
    (npy(np.zeros((0, *IMAGE), np.float32)), ARRAY, 413),
    (npy(np.zeros((65, *IMAGE), np.float32)), ARRAY, 413),
    (npy(np.array([{}], object)), ARRAY, 422),
    (b"\x93NUMPY\x01\x00\xff\xff", ARRAY, 422),
    (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, ARRAY, 422),
    (b"\x93NUMPY\x02\x00" + b"\xff" * 20, ARRAY, 422),
]


@pytest.mark.parametrize(("body", "kind", "status"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies_are_refused_with_a_sentence(body: bytes, kind: str, status: int) -> None:
    with pytest.raises(Refusal) as found:
        decode(body, kind, IMAGE, Limits())
    assert found.value.status == status
    assert len(found.value.detail) > 10
