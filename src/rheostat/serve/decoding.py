"""Hostile input to a batch of images, or a clear refusal: nothing here trusts a size it was told."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float32]
IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
TENSOR = "application/x-npy"
HEADER = 4096
"""The longest .npy header that is read."""


class Refusal(Exception):
    """What is wrong with a request, as a status and a sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Limits:
    """How much a request may ask for. Bytes, pixels of an encoded image, images, seconds for a body."""

    max_bytes: int = 8 * 2**20
    max_pixels: int = 4 * 2**20
    max_images: int = 64
    body_seconds: float = 10.0


def decode(body: bytes, kind: str, image: tuple[int, int, int], limits: Limits) -> Array:
    """A request's body → (n, C, H, W) float32 in [0, 1]; Refusal (4xx) for anything else.

    `kind` is the content type: an encoded image (resized to the model's), or .npy of float32 in [0, 1] or
    uint8, shape (n, C, H, W) or (C, H, W).
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind not in (*IMAGES, TENSOR):
        raise Refusal(415, f"content type {kind or 'missing'!r}; send {', '.join([*IMAGES, TENSOR])}")
    if not body:
        raise Refusal(400, "the body is empty")
    return _tensor(body, image, limits) if kind == TENSOR else _picture(body, IMAGES[kind], image, limits)


def _picture(body: bytes, form: str, image: tuple[int, int, int], limits: Limits) -> Array:
    channels, height, width = image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The header alone is read here: a bomb is refused before it is unpacked.
            opened = Image.open(io.BytesIO(body), formats=[form])
            if opened.width * opened.height > limits.max_pixels:
                raise Refusal(413, f"an image of {opened.width} × {opened.height}, at most {limits.max_pixels} pixels")
            if getattr(opened, "n_frames", 1) != 1:
                raise Refusal(422, "an animation; send one image")
            grey = channels == 1
            plain = opened.convert("L" if grey else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except Refusal:
        raise
    except Image.DecompressionBombError:
        raise Refusal(413, f"a picture of far more than {limits.max_pixels} pixels") from None
    except Exception as error:  # PIL's decoders raise anything on hostile bytes
        raise Refusal(422, f"not a whole {form} image ({type(error).__name__})") from None
    pixels = np.asarray(plain, np.float32) / np.float32(255)
    stacked = pixels[None, None] if grey else pixels.transpose(2, 0, 1)[None]
    return np.ascontiguousarray(stacked)


def _tensor(body: bytes, image: tuple[int, int, int], limits: Limits) -> Array:
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise Refusal(422, "a .npy file of version 1.0 is expected")
        shape, fortran, kind = np.lib.format.read_array_header_1_0(stream, max_header_size=HEADER)
    except Refusal:
        raise
    except Exception:  # the header is parsed as Python text, and fails in as many ways
        raise Refusal(422, "not a .npy array") from None
    if fortran or kind not in (np.dtype("<f4"), np.dtype("u1")):
        raise Refusal(422, f"an array of {kind}, C order; send float32 in [0, 1] or uint8")
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4 or tuple(shape[1:]) != image:
        raise Refusal(422, f"shape {tuple(shape)}; this model takes (n, {', '.join(map(str, image))})")
    if not 1 <= shape[0] <= limits.max_images:
        raise Refusal(413, f"{shape[0]} images in one request; from 1 to {limits.max_images} are taken")
    count = int(np.prod(shape))
    rest = memoryview(body)[stream.tell() :]
    if len(rest) != count * kind.itemsize:
        raise Refusal(422, f"{len(rest)} bytes of data, expected {count * kind.itemsize}")
    found = np.frombuffer(rest, kind).reshape(shape)
    if kind == np.dtype("u1"):
        scaled: Array = found.astype(np.float32) / np.float32(255)
        return scaled
    if not np.isfinite(found).all():
        raise Refusal(422, "the array holds NaN or infinite values")
    if found.min() < 0 or found.max() > 1:
        raise Refusal(422, "pixels lie in [0, 1]; the array goes beyond")
    return np.ascontiguousarray(found)
