"""Messages of the Open Inference Protocol, version 2, so that clients of KServe and Triton can use this server.

The REST protocol: https://github.com/kserve/open-inference-protocol. Binary data follows Triton's extension
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from rheostat.runtime.choices import nearest
from rheostat.serve.decoding import Array, Limits, Refusal, in_range

MODEL, VERSION, INPUT = "rheostat", "1", "images"
OUTPUTS = {"probabilities": "FP32", "labels": "INT64"}
HEADER = "Inference-Header-Content-Length"
"""The header that states how many bytes of JSON precede the binary tensors of a body."""
KINDS: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("|u1")}


@dataclass(frozen=True)
class Asked:
    """A request: its images, its id, the requested outputs (name → whether binary), and a point, or None."""

    images: Array
    id: str
    outputs: dict[str, bool]
    point: str | None


def server_metadata(version: str) -> dict[str, Any]:
    """The answer of `/v2`."""
    return {"name": "rheostat", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(image: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """The answer of `/v2/models/rheostat`."""
    shapes = {"probabilities": [-1, classes], "labels": [-1]}
    return {
        "name": MODEL,
        "versions": [VERSION],
        "platform": "rheostat",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *image]}],
        "outputs": [{"name": n, "datatype": kind, "shape": shapes[n]} for n, kind in OUTPUTS.items()],
    }


def parse(body: bytes, header: str | None, image: tuple[int, int, int], limits: Limits) -> Asked:
    """Parse the body of an `infer` request; Refusal (4xx) if it is invalid. `header` is the value of `HEADER`."""
    length = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit() and len(header) < 15 and int(header) <= length):
            raise Refusal(400, f"{HEADER} {header[:20]!r} is not the length of a part of the body")
        length = int(header)
    try:
        found = json.loads(body[:length], parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refusal(400, "not JSON") from None
    if not isinstance(found, dict):
        raise Refusal(400, "a request is a JSON object")
    given = found.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise Refusal(422, f"inputs must be a list of one tensor, {INPUT!r}")
    parameters = found.get("parameters", {})
    point = parameters.get("point") if isinstance(parameters, dict) else None
    if point is not None and not isinstance(point, str):
        raise Refusal(422, "point must be the name of a point")
    name = found.get("id", "")
    if isinstance(name, str):  # JSON may hold half of a character, which no answer could repeat
        name = name.encode(errors="replace").decode()
    return Asked(
        _images(given[0], body[length:], image, limits),
        name[:200] if isinstance(name, str) else "",
        _outputs(found.get("outputs"), parameters),
        point,
    )


def _no_number(text: str) -> None:
    raise ValueError(text)


def _images(given: dict[str, Any], binary: bytes, image: tuple[int, int, int], limits: Limits) -> Array:
    if given.get("name") != INPUT:
        raise Refusal(422, f"the input must be named {INPUT!r}, given {str(given.get('name'))[:60]!r}")
    kind, shape = given.get("datatype"), given.get("shape")
    if not isinstance(kind, str) or kind not in KINDS:
        raise Refusal(422, f"datatype {str(kind)[:20]!r}; {nearest(str(kind)[:20], KINDS)}")
    if not isinstance(shape, list) or any(type(n) is not int for n in shape) or tuple(shape[1:]) != image:
        raise Refusal(422, f"shape {str(shape)[:60]}; this model takes (n, {', '.join(map(str, image))})")
    if not 1 <= shape[0] <= limits.max_images:
        raise Refusal(413, f"{str(shape[0])[:20]} images in one request; from 1 to {limits.max_images} are allowed")
    values = _values(given, binary, kind, math.prod(shape)).reshape(shape)
    if kind == "UINT8":
        return values.astype(np.float32) / np.float32(255)
    return in_range(values)


def _values(given: dict[str, Any], binary: bytes, kind: str, expected: int) -> npt.NDArray[Any]:
    parameters = given.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if size != len(binary) or size != expected * KINDS[kind].itemsize:
            raise Refusal(422, f"{len(binary)} bytes of data, expected {expected * KINDS[kind].itemsize}")
        return np.frombuffer(binary, KINDS[kind])
    if binary:
        raise Refusal(422, f"{len(binary)} bytes after the JSON that belong to no input")
    try:
        listed = np.asarray(given.get("data"))
        if listed.dtype.kind not in "iuf" or listed.size != expected:
            raise ValueError
        if kind == "UINT8" and (listed.dtype.kind == "f" or listed.min() < 0 or listed.max() > 255):
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise Refusal(422, f"data must be a list of {expected} numbers of type {kind}") from None
    return listed.reshape(-1).astype(KINDS[kind])


def _outputs(given: Any, parameters: Any) -> dict[str, bool]:
    every = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    if given is None or given == []:
        return dict.fromkeys(OUTPUTS, every)
    if not isinstance(given, list) or any(not isinstance(o, dict) for o in given):
        raise Refusal(422, "outputs must be a list of objects, each with a name")
    found = {}
    for output in given:
        name, own = output.get("name"), output.get("parameters", {})
        if not isinstance(name, str) or name not in OUTPUTS:
            raise Refusal(422, f"no output {str(name)[:60]!r}; {nearest(str(name)[:60], OUTPUTS)}")
        if isinstance(own, dict) and own.get("classification"):
            raise Refusal(422, "the classification extension is not supported; ask for 'labels'")
        found[name] = own.get("binary_data", every) is True if isinstance(own, dict) else every
    return found


def answer(asked: Asked, point: str, found: Array) -> tuple[bytes, int | None]:
    """Return (body, number of leading JSON bytes, or None if the body is all JSON); `parameters` names the point."""
    values: dict[str, npt.NDArray[Any]] = {
        "probabilities": np.ascontiguousarray(found, "<f4"),
        "labels": found.argmax(1).astype("<i8"),
    }
    outputs, tail = [], []
    for name, binary in asked.outputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": list(values[name].shape)}
        if binary:
            tail.append(values[name].tobytes())
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            tensor["data"] = values[name].reshape(-1)
        outputs.append(tensor)
    message: dict[str, Any] = {
        "model_name": MODEL,
        "model_version": VERSION,
        "outputs": outputs,
        "parameters": {"point": point},
    }
    if asked.id:
        message["id"] = asked.id
    head = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return (head + b"".join(tail), len(head)) if tail else (head, None)
