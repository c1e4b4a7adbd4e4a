"""Files that are no whole safetensors file, or whose metadata is no whole JSON object, by what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

from hostile_models import header_of, parts, raw, written

NESTED = 100_000


def broken_files(folder: Path) -> dict[str, bytes]:
    """Each kind of damage to the file itself, by its name."""
    tensors, about = parts(folder)
    whole = written(tensors, about)
    header, data = header_of(whole)
    words = header["__metadata__"]["rheostat"]
    first, second = [k for k in header if k != "__metadata__"][:2]

    def entry(**changes: object) -> bytes:
        return raw({**header, first: {**header[first], **changes}}, data)

    def said(text: str) -> bytes:
        return raw({**header, "__metadata__": {"rheostat": text}}, data)

    end = header[first]["data_offsets"][1]
    return {
        "empty": b"",
        "seven bytes": b"\x00" * 7,
        "a pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "a zip": b"PK\x03\x04" + bytes(100),
        "text": b"hello " * 50,
        "header of 2**63": raw(header, data, length=2**63),
        "header longer than the file": raw(header, data, length=len(whole)),
        "header of 100 MB": raw(header, data, length=10**8),
        "header cut": whole[:200],
        "data cut": whole[:-5],
        "data too long": whole + bytes(5),
        "header no JSON": raw(b"{" * 100, data),
        "header a list": raw([1], data),
        "header nested": raw(b'{"a":' * NESTED, data),
        "header not UTF-8": raw(b'{"\xff": 1}', data),
        "header NaN": raw(b'{"a": NaN}', data),
        "tensor of an unknown type": entry(dtype="F7"),
        "tensor of a type that torch may lack": entry(dtype="F4"),
        "tensor type a number": entry(dtype=1),
        "tensor of another type": entry(dtype="I32"),
        "tensor of 2**62 values": entry(shape=[2**62]),
        "tensor of 2**80 values": entry(shape=[2**40, 2**40]),
        "tensor of a negative shape": entry(shape=[-1]),
        "tensor of a text shape": entry(shape="4"),
        "tensor with a shape of fractions": entry(shape=[1.5]),
        "tensor of 10 000 dimensions": entry(shape=[1] * 10_000),
        "tensor offsets overlap": entry(data_offsets=[0, end + 4]),
        "tensor offsets fall": entry(data_offsets=[end, 0]),
        "tensor offsets beyond the file": entry(data_offsets=[0, 2**50]),
        "tensor offsets negative": entry(data_offsets=[-4, end]),
        "two tensors of the same bytes": raw({**header, second: header[first]}, data),
        "tensor given twice": raw(json.dumps(header)[:-1].encode() + f', "{first}": 0}}'.encode(), data),
        "no metadata": raw({k: v for k, v in header.items() if k != "__metadata__"}, data),
        "metadata of another": raw({**header, "__metadata__": {"format": "pt"}}, data),
        "metadata a number": raw({**header, "__metadata__": 5}, data),
        "metadata no JSON": said("{"),
        "metadata a list": said("[1]"),
        "metadata a number alone": said("7"),
        "metadata nested": said("[" * NESTED + "]" * NESTED),
        "metadata nested inside": said(words[:-1] + ', "provenance": ' + '{"a":' * 5000 + "1" + "}" * 5001),
        "metadata with a key twice": said(words[:-1] + f', "net": {json.dumps(about["net"])}}}'),
        "metadata with a number of 5 000 digits": said(words[:-1] + f', "provenance": {{"a": {"9" * 5000}}}}}'),
    }
