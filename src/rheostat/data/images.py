"""Untrusted image files and encoded images; the sizes in their headers are checked before anything is decoded.

`decode` needs only the standard library and Pillow. A service can therefore run it in a small separate
process (`serve.image_worker` loads this file by its path) and kill that process when it takes too long.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import torch

FILE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF")
FILE_BYTES, FILE_PIXELS = 2**28, 2**25
"""Limits of an image file in a folder: bytes, and pixels (33 million)."""
SCANS = 64
"""The most scans allowed in a JPEG; encoders write about ten."""
WORK = 16
"""The most pixels that all scans of a JPEG may decode together, as a multiple of the pixel limit of an image."""
RESIZES = ("crop", "stretch", "pad")
"""Resizing rules: the centre; the whole image with another aspect ratio; the whole image on a black background."""
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SCAN, _END = 0xDA, 0xD9
_BARE = (0x01, 0xD8)
"""Markers without a length field."""


class ImageProblem(Exception):
    """A problem with an encoded image; `large` is set if the image is valid but exceeds a limit."""

    def __init__(self, text: str, *, large: bool = False) -> None:
        super().__init__(text)
        self.large = large


def decode(raw: bytes, formats: tuple[str, ...], mode: str, most_pixels: int) -> Image.Image:
    """An encoded still image as an 8-bit image in `mode` "L" (grey) or "RGB"; raises ImageProblem for anything else.

    The size in the header and the scans of a JPEG are checked before anything is decoded. 16-bit grey is
    scaled to 8 bits; without scaling it would saturate.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if raw[:4] == b"RIFF":
                _check_size(*_webp_size(raw), most_pixels)
            opened = Image.open(io.BytesIO(raw), formats=formats)
            _check_size(opened.width, opened.height, most_pixels)
            if opened.format in ("JPEG", "MPO"):
                _check_scans(raw, opened.width * opened.height, most_pixels)
            # A camera's MPO holds the photo first, then a preview.
            if opened.format != "MPO" and getattr(opened, "n_frames", 1) != 1:
                raise ImageProblem("an animation; send a still image")
            return eight_bits(opened).convert(mode)
    except ImageProblem:
        raise
    except Image.DecompressionBombError:
        raise ImageProblem(f"an image of more than {most_pixels} pixels", large=True) from None
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes
        raise ImageProblem(f"not a complete {' or '.join(formats)} image ({type(error).__name__})") from None


def _check_size(width: int, height: int, most_pixels: int) -> None:
    if width * height > most_pixels:
        raise ImageProblem(f"an image of {width} × {height}; the limit is {most_pixels} pixels", large=True)


def _webp_size(raw: bytes) -> tuple[int, int]:
    """(width, height) of a WebP's canvas, which Pillow allocates when it opens the file."""
    kind = raw[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(raw[24:27], "little"), 1 + int.from_bytes(raw[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(raw[26:28], "little") & 0x3FFF, int.from_bytes(raw[28:30], "little") & 0x3FFF


def _check_scans(raw: bytes, pixels: int, most_pixels: int) -> None:
    """Refuse a JPEG with many scans: each may decode every pixel but takes only a few bytes."""
    most = min(SCANS, WORK * most_pixels // max(1, pixels))
    scans, at = 0, 2
    while (found := _MARKER.search(raw, at)) is not None:
        marker = found[1][0]
        if marker == _END:
            return
        scans += marker == _SCAN
        if scans > most:
            raise ImageProblem(f"a JPEG with more than {most} scans", large=True)
        at = found.end()
        if marker not in _BARE:
            at += int.from_bytes(raw[at : at + 2], "big")


def eight_bits(opened: Image.Image) -> Image.Image:
    """16-bit grey rounded to 8 bits, 8-bit modes unchanged; raises ImageProblem for 32-bit pixels of unknown range.

    Mode "I" has 32 bits; Pillow also gives it to 16-bit files, except TIFF.
    """
    if opened.mode == "F" or (opened.mode == "I" and opened.format in ("TIFF", None)):
        raise ImageProblem("32-bit pixels of unknown range; save the image with 8 or 16 bits per channel")
    if not opened.mode.startswith("I"):
        return opened
    return opened.convert("I").point(_scaled).convert("L")


def _scaled(value: Image.ImagePointTransform) -> Image.ImagePointTransform:
    return value * (1 / 257) + 0.5


def fitted(image: Image.Image, width: int, height: int, resize: str) -> Image.Image:
    """An 8-bit image resized with an antialiased bilinear filter; `resize` is one of RESIZES.

    "crop" resizes the largest centred part with the new aspect ratio; "stretch" resizes the whole image to the new
    aspect ratio; "pad" keeps the aspect ratio and centres the image on black. Memory depends only on the size of the
    result, however long and thin the image is.
    """
    if image.size == (width, height):
        return image
    if resize == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    across, down = image.width / width, image.height / height
    if resize == "crop":
        scale = min(across, down)
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (
            max(0.0, left),
            max(0.0, top),
            min(image.width, left + width * scale),
            min(image.height, top + height * scale),
        )
        return image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    scale = max(across, down)
    inner = max(1, round(image.width / scale)), max(1, round(image.height / scale))
    sheet = Image.new(image.mode, (width, height))
    sheet.paste(image.resize(inner, Image.Resampling.BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return sheet


def read_image(path: Path, mode: str = "RGB", fit: Callable[[Image.Image], Image.Image] | None = None) -> torch.Tensor:
    """An image file as (C, H, W) uint8 in "RGB" or "L", resized by `fit`; raises DataError if it cannot be read."""
    # Imported here because a process that only decodes needs none of them.
    import numpy as np
    import torch

    from rheostat.data.base import DataError, read_regular

    raw = read_regular(path, FILE_BYTES)
    try:
        image = decode(raw, FILE_FORMATS, mode, FILE_PIXELS)
    except ImageProblem as problem:
        raise DataError(f"{path}: not a readable image ({problem})") from None
    pixels = torch.from_numpy(np.array(image if fit is None else fit(image)))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
