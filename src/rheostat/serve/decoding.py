"""Decode untrusted input into a batch of images, or refuse it with a reason; no size that it states is trusted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rheostat.data import images

Array = npt.NDArray[np.float32]
IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
TENSOR = "application/x-npy"
MAGIC = b"\x93NUMPY\x01\x00"
HEADER = re.compile(
    rb"\{\s*'descr':\s*'([<>|=]?[A-Za-z?]\d{0,3})'\s*,\s*'fortran_order':\s*(True|False)\s*,"
    rb"\s*'shape':\s*\(\s*(\d{1,9}(?:\s*,\s*\d{1,9}){0,3})\s*,?\s*\)\s*,?\s*\}\s*"
)
"""The header of a .npy file, as a pattern, so that untrusted text is never parsed as Python."""
LONGEST = 512
"""Bytes of the longest header that is accepted."""


class Refusal(Exception):
    """Why a request is refused: an HTTP status and a sentence; `retry` is the number of seconds to wait."""

    def __init__(self, status: int, detail: str, retry: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry = status, detail, retry


@dataclass(frozen=True)
class Limits:
    """Limits of one request: bytes, pixels of an encoded image, images, seconds to send the body and to decode it."""

    max_bytes: int = 8 * 2**20
    max_pixels: int = 4 * 2**20
    max_images: int = 64
    body_seconds: float = 10.0
    image_seconds: float = 2.0


def check_kind(body: bytes, kind: str) -> str:
    """The content type without parameters; Refusal for an unsupported one, and for an empty body."""
    kind = kind.partition(";")[0].strip().lower()
    if kind not in (*IMAGES, TENSOR):
        raise Refusal(415, f"content type {kind[:60] or 'missing'!r}; send {', '.join([*IMAGES, TENSOR])}")
    if not body:
        raise Refusal(400, "the body is empty")
    return kind


def decode(body: bytes, kind: str, image: tuple[int, int, int], limits: Limits, resize: str = "stretch") -> Array:
    """Decode a request's body to (n, C, H, W) float32 in [0, 1]; Refusal (4xx) for anything else.

    `kind` is the content type: an encoded image, resized to the model's size by the rule `resize` of the model file,
    or a .npy array of float32 in [0, 1] or uint8, shape (n, C, H, W) or (C, H, W). The service itself decodes images
    in the processes of `workers.Decoders`.
    """
    kind = check_kind(body, kind)
    if kind == TENSOR:
        return tensor(body, image, limits)
    channels, height, width = image
    try:
        opened = images.decode(body, (IMAGES[kind],), "L" if channels == 1 else "RGB", limits.max_pixels)
    except images.ImageProblem as problem:
        raise Refusal(413 if problem.large else 422, str(problem)) from None
    return as_batch(images.fitted(opened, width, height, resize).tobytes(), image)


def as_batch(pixels: bytes, image: tuple[int, int, int]) -> Array:
    """Convert the pixel bytes of one grey or RGB image to (1, C, H, W) float32 in [0, 1]."""
    _, height, width = image
    plain = np.frombuffer(pixels, np.uint8).reshape(height, width, -1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(plain.transpose(2, 0, 1)[None])


def tensor(body: bytes, image: tuple[int, int, int], limits: Limits) -> Array:
    """Decode a .npy file of version 1.0 to (n, C, H, W) float32 in [0, 1]; Refusal for anything else."""
    if not body.startswith(MAGIC):
        raise Refusal(422, "not a .npy array of version 1.0")
    start = 10 + int.from_bytes(body[8:10], "little")
    found = HEADER.fullmatch(body[10:start]) if start <= LONGEST else None
    if found is None:
        raise Refusal(422, "not the header of a plain .npy array")
    kind, fortran = found[1].decode(), found[2] == b"True"
    if fortran or kind not in ("<f4", "|u1"):
        raise Refusal(
            422, f"an array of {kind}, {'Fortran' if fortran else 'C'} order; send float32 in [0, 1] or uint8"
        )
    shape = tuple(int(n) for n in re.findall(rb"\d+", found[3]))
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4 or shape[1:] != image:
        raise Refusal(422, f"shape {shape}; this model takes (n, {', '.join(map(str, image))})")
    if not 1 <= shape[0] <= limits.max_images:
        raise Refusal(413, f"{shape[0]} images in one request; from 1 to {limits.max_images} are allowed")
    rest = memoryview(body)[start:]
    expected = math.prod(shape) * (1 if kind == "|u1" else 4)
    if len(rest) != expected:
        raise Refusal(422, f"{len(rest)} bytes of data, expected {expected}")
    if kind == "|u1":
        scaled: Array = np.frombuffer(rest, np.uint8).reshape(shape).astype(np.float32) / np.float32(255)
        return scaled
    return in_range(np.frombuffer(rest, "<f4").reshape(shape))


def in_range(values: Array) -> Array:
    """float32 pixels, contiguous; Refusal unless all lie in [0, 1]."""
    if not np.isfinite(values).all():
        raise Refusal(422, "the array holds NaN or infinite values")
    if values.min() < 0 or values.max() > 1:
        raise Refusal(422, "pixels must lie in [0, 1]; the array has values outside")
    return np.ascontiguousarray(values)
