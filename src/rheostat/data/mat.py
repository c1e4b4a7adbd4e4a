"""MATLAB 5 files of numeric arrays; the sizes in their headers are checked before anything is decompressed.

A general reader trusts the cells, objects and sizes in a file and decompresses all of it. Data sets need only
numeric arrays. Format: MAT-File Level 5, MathWorks, "MAT-File Format", chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from rheostat.data.base import DataError, read_regular

LARGEST = 2**29
"""Limit on the bytes of a file and of its decompressed contents; the largest published one has 225 million."""
MOST_PACKED = 1032
"""The maximum compression ratio of deflate."""
VARIABLES = 16
MATRIX, COMPRESSED = 14, 15
NUMERIC = range(6, 16)
"""Array classes that hold numbers: double to uint64."""
TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a file by name, in the types of the file; raises DataError for anything else."""
    raw = memoryview(read_regular(path, LARGEST))
    if len(raw) < 128 or bytes(raw[124:128]) != b"\x00\x01IM":
        raise DataError(f"{path}: not a complete .mat file of MATLAB 5 (version 7.3 writes HDF5)")
    found: dict[str, np.ndarray] = {}
    at, left = 128, LARGEST
    try:
        while at < len(raw):
            kind, size = struct.unpack_from("<II", raw, at)
            element = raw[at + 8 : at + 8 + size]
            if len(element) < size or len(found) >= VARIABLES:
                raise DataError("an element is longer than the file" if len(element) < size else "too many variables")
            if kind == COMPRESSED:
                element = _unpacked(element, left)
            elif kind != MATRIX:
                raise DataError(f"element of type {kind}, expected an array")
            left -= len(element)
            name, array = _matrix(element)
            found[name] = array
            at += 8 + size
    except (DataError, struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a complete .mat file of numeric arrays ({error})") from None
    return found


def _unpacked(packed: memoryview, most: int) -> memoryview:
    """The array inside a compressed element; the size in its header limits what is decompressed."""
    stream = zlib.decompressobj()
    start = stream.decompress(packed, 8)
    kind, size = struct.unpack("<II", start)
    if kind != MATRIX or size > min(most, MOST_PACKED * len(packed)):
        raise DataError(f"a compressed element of type {kind} declares {size} bytes")
    body = stream.decompress(stream.unconsumed_tail, size + 1)
    if len(body) != size:
        raise DataError(f"a compressed element does not hold the {size} bytes that its header declares")
    return memoryview(body)


def _matrix(element: memoryview) -> tuple[str, np.ndarray]:
    """(name, array) of a numeric array, from its four parts: flags, dimensions, name, values."""
    flags, at = _part(element, 0, 6)
    kind, complex_ = flags[0], flags[1] & 0x08
    if kind not in NUMERIC or complex_:
        raise DataError(f"an array of class {kind}{', complex' if complex_ else ''}; expected real numbers")
    sizes, at = _part(element, at, 5)
    shape = struct.unpack(f"<{len(sizes) // 4}i", sizes)
    if not 2 <= len(shape) <= 8 or min(shape) < 0:
        raise DataError(f"an array of shape {shape[:9]}")
    name, at = _part(element, at, 1)
    if len(name) > 63:
        raise DataError("a name of more than 63 characters")
    values, _ = _part(element, at, None)
    array = np.frombuffer(values, TYPES[struct.unpack_from("<I", element, at)[0] & 0xFFFF])
    if array.size != math.prod(shape):
        raise DataError(f"an array of shape {shape} holds {array.size} values")
    return bytes(name).decode("ascii"), array.reshape(shape, order="F")


def _part(element: memoryview, at: int, expected: int | None) -> tuple[memoryview, int]:
    """(bytes of a part, offset of the next one). `expected` is its type; None accepts any numeric type."""
    (kind,) = struct.unpack_from("<I", element, at)
    small = kind >> 16
    if small:
        begin, size, after = at + 4, small, at + 8
    else:
        (size,) = struct.unpack_from("<I", element, at + 4)
        begin, after = at + 8, at + 8 + -(-size // 8) * 8
    kind &= 0xFFFF
    if (kind not in TYPES if expected is None else kind != expected) or (small and size > 4):
        raise DataError(f"a part of type {kind}")
    value = element[begin : begin + size]
    if len(value) < size or (kind in TYPES and size % np.dtype(TYPES[kind]).itemsize):
        raise DataError("a part is longer than its array")
    return value, after
