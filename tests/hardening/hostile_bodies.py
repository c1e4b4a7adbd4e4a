"""Request bodies made to harm, by what is wrong with them: none may be answered with 5xx."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

IMAGE = (1, 8, 8)
NPY = "application/x-npy"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def header(shape: str, descr: str = "'<f4'", order: str = "False", version: bytes = b"\x01\x00") -> bytes:
    text = (f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n").encode("latin-1")
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + bytes(256)


def picture(form: str, size: int = 8, mode: str = "L", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (size, size), 99 if mode in "LP" else (9, 99, 199, 50)[: len(mode)]).save(buffer, form, **options)
    return buffer.getvalue()


def scans(count: int) -> bytes:
    raw = picture("JPEG", 1024, progressive=True)
    last = raw.rindex(b"\xff\xda")
    return (raw[:last] + raw[last:-2] * count + raw[-2:])[: 2**20]


def png_of(width: int, height: int, depth: int = 8, colour: int = 0, chunks: bytes = b"") -> bytes:
    """A PNG whose header says this, with its checksum right."""
    raw = bytearray(picture("PNG"))
    raw[16:26] = struct.pack(">IIBB", width, height, depth, colour)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw[:33]) + chunks + bytes(raw[33:])


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    size = struct.pack(">I", len(content) if length is None else length)
    return size + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg_of(width: int, height: int) -> bytes:
    raw = bytearray(picture("JPEG"))
    frame = raw.index(b"\xff\xc0")
    raw[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def arrays() -> dict[str, bytes]:
    one = np.zeros((1, *IMAGE), np.float32)
    shapes = {
        "(True, 1, 8, 8)": "shape (True, 1, 8, 8)",
        f"({'9' * 3900}, 1, 8, 8)": "of 3 900 digits",
        f"({2**40}, 1, 8, 8)": "of 2**40 images",
        f"({2**64}, 1, 8, 8)": "of 2**64 images",
        "(" * 300: "of nested brackets",
        "(-1, 1, 8, 8)": "of -1 images",
        "(0, 1, 8, 8)": "of no image by its header",
        "(1.0, 1, 8, 8)": "shape of fractions",
        "(1e1, 1, 8, 8)": "shape with an exponent",
        "(0x1, 1, 8, 8)": "shape in hexadecimal",
        "(1_0, 1, 8, 8)": "shape with an underscore",
        "'1188'": "shape of text",
        "None": "shape None",
        "()": "shape ()",
        "(1, 1, 1, 1, 8, 8)": "shape of six",
        "(__import__('os').system('id'), 1, 8, 8)": "shape that calls",
        "(1, 1, 8, 8), 'shape': (2, 1, 8, 8)": "shape twice",
    }
    found = {f"npy {name}": header(shape) for shape, name in shapes.items()}
    kinds = ("'|O'", "'>f4'", "'<f8'", "'<c8'", "'<U9'", "'|V4'", "[('a', '<f4')]", "'<f4' * 9", "1", "'\x1b[2J'")
    found |= {f"npy type {descr!r}": header("(1, 1, 8, 8)", descr) for descr in kinds}
    values = {"NaN": np.nan, "infinity": np.inf, "-1": -1.0, "255": 255.0, "1e38": 1e38}
    found |= {f"npy of {name}": npy(np.full_like(one, value)) for name, value in values.items()}
    return found | {
        "npy of objects": npy(np.array([{}], object)),
        "npy of doubles": npy(one.astype(np.float64)),
        "npy of bytes": npy(one.astype(np.uint8)),
        "npy of truths": npy(one.astype(bool)),
        "npy in Fortran's order": header("(1, 1, 8, 8)", order="True"),
        "npy order unknown": header("(1, 1, 8, 8)", order="9"),
        "npy version 2": header("(1, 1, 8, 8)", version=b"\x02\x00")[:60],
        "npy version 9": header("(1, 1, 8, 8)", version=b"\x09\x00"),
        "npy of 7 columns": npy(one[..., :7]),
        "npy of 3 channels": npy(np.zeros((1, 3, 8, 8), np.float32)),
        "npy of 5 000 images": npy(np.zeros((1000, *IMAGE), np.float32)),
        "npy cut": npy(one)[:-3],
        "npy too long": npy(one) + b"x",
        "npy header cut": npy(one)[:40],
        "npy header of 65 535": b"\x93NUMPY\x01\x00\xff\xff",
        "npy header of 4 GB": b"\x93NUMPY\x02\x00" + b"\xff" * 20,
        "npz": b"PK\x03\x04" + bytes(200),
        "a pickle as npy": b"\x80\x04cposix\nsystem\n(S'id'\ntR.",
    }


def pictures() -> dict[str, tuple[bytes, str]]:
    png, jpeg, webp = "image/png", "image/jpeg", "image/webp"
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24), 9))
    return {
        "JPEG of 12 000 scans": (scans(12_000), jpeg),
        "JPEG of 60 scans, 1 Mpx": (scans(50), jpeg),
        "JPEG of 65 535 pixels a side": (jpeg_of(65535, 65535), jpeg),
        "JPEG of no pixels": (jpeg_of(0, 0), jpeg),
        "JPEG cut": (picture("JPEG", 64)[:200], jpeg),
        "JPEG of 10 000 markers": (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 10_000 + picture("JPEG")[2:], jpeg),
        "JPEG marker of no length": (picture("JPEG")[:-2] + b"\xff\xe1\x00\x00", jpeg),
        "JPEG of zeros": (b"\xff\xd8\xff" + bytes(3000), jpeg),
        "PNG as JPEG": (picture("PNG"), jpeg),
        "PNG cut": (picture("PNG", 64)[:60], png),
        "PNG of 4 Mpx": (picture("PNG", 2048), png),
        "PNG of 5 Mpx": (picture("PNG", 2300), png),
        "PNG of 60 000 pixels a side": (png_of(60_000, 60_000), png),
        "PNG of 2**31 pixels a side": (png_of(2**31 - 1, 2**31 - 1), png),
        "PNG of one row of 2**24 pixels": (png_of(2**24, 1), png),
        "PNG of no pixels": (png_of(0, 0), png),
        "PNG of depth 3": (png_of(8, 8, depth=3), png),
        "PNG of colour 9": (png_of(8, 8, colour=9), png),
        "PNG with text of 16 MB": (png_of(8, 8, chunks=text), png),
        "PNG chunk of 2 GB": (png_of(8, 8, chunks=chunk(b"IDAT", b"x", 2**31 - 1)), png),
        "PNG of wrong checksums": (picture("PNG")[:29] + bytes(4) + picture("PNG")[33:], png),
        "PNG of 50 000 empty chunks": (png_of(8, 8, chunks=chunk(b"teSt", b"") * 50_000), png),
        "PNG with frames": (png_of(8, 8, chunks=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), png),
        "WebP of zeros": (bytes(5000), webp),
        "WebP cut": (picture("WEBP", 64)[:30], webp),
        "WebP with frames": (picture("WEBP", save_all=True), webp),
        "WebP of a wrong length": (b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(40), webp),
        "GIF as PNG": (picture("GIF"), png),
        "TIFF as PNG": (picture("TIFF"), png),
        "PostScript as PNG": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", png),
        "SVG as PNG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", png),
        "BMP": (picture("BMP"), "image/bmp"),
    }


BODIES: dict[str, tuple[bytes, str]] = {
    **{name: (body, NPY) for name, body in arrays().items()},
    **pictures(),
    "no content type": (b"x", ""),
    "form data": (b"a=b" * 100, "application/x-www-form-urlencoded"),
    "JSON": (b'{"image": [0]}', "application/json"),
    "content type of 4 000 letters": (b"x", "image/" + "p" * 4000),
    "content type with a point": (b"x", "image/png; point=fast"),
    "empty": (b"", "image/png"),
    "empty array": (b"", NPY),
    "2 MB of zeros": (bytes(2**21), NPY),
}
