"""Model files made to harm, by what is wrong with them: each must be refused in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from rheostat import nets
from rheostat.methods import compose
from rheostat.models import artifact
from rheostat.models.artifact import About
from rheostat.models.hashing import tensors_hash
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.files import read_tensors

CLASSES = tuple(str(i) for i in range(10))
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
GONE = ...
"""Stands for a key that is left out."""
STACK = "Stack(Dual(sets=2, between='blend'), Film(dim=2))"


def parts(folder: Path, paper: str = "oat") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a whole model's file, with a named point."""
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose(paper))
    model.points = {"safe": Point(robustness=1.0)} if paper == "oat" else {}
    threat = {"norm": "linf", "eps": 0.1}
    about = About(CLASSES, threat, {"dataset": "digits"}, {"safe": {"temperature": 1.2}} if paper == "oat" else {})
    if paper == "rdi":
        model.net.get_buffer("thresholds").fill_(0.5)
    return read_tensors(artifact.save(folder / f"{paper}.safetensors", model, about))


def written(tensors: dict[str, Tensor], about: dict[str, Any], *, rehash: bool = True) -> bytes:
    """A file of these tensors and this metadata, its hash right unless it is asked not to be."""
    about = {k: v for k, v in about.items() if v is not GONE}
    if rehash and "tensors" in about:
        about["tensors"] = tensors_hash(tensors)
    return save({k: v.contiguous() for k, v in tensors.items()}, {"rheostat": json.dumps(about)})


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header: JSON of a value, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def header_of(file: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, data) of a whole file."""
    (length,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + length]), file[8 + length :]


DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "format 2": {"artifact": 2},
    "format as text": {"artifact": "1"},
    "format true": {"artifact": [1]},
    "no format": {"artifact": GONE},
    "unknown key": {"teleport": 1},
    "hash wrong": {"tensors": "0" * 64},
    "hash a number": {"tensors": 5},
    "no composition": {"composition": GONE},
    "composition a number": {"composition": 5},
    "composition unknown": {"composition": "Stack(Dual(), Warp())"},
    "composition calls": {"composition": "Stack(Dual(), __import__('os').system('id'))"},
    "composition of a call inside": {"composition": "Stack(Dual(sets=print(1)), Film())"},
    "composition by position": {"composition": "Stack(Dual(2), Film(dim=2))"},
    "composition with **": {"composition": "Stack(Dual(**{'sets': 2}), Film(dim=2))"},
    "composition option twice": {"composition": "Stack(Dual(sets=1, sets=2), Film(dim=2))"},
    "composition option unknown": {"composition": "Stack(Dual(speed=2), Film(dim=2))"},
    "composition option of text": {"composition": STACK.replace("2)", "'2')")},
    "composition option a bool": {"composition": STACK.replace("sets=2", "sets=True")},
    "composition option NaN": {"composition": "Stack(Dual(), Noise(initial=1e999))"},
    "composition with a huge option": {"composition": STACK.replace("dim=2", "dim=1000000000")},
    "composition with a negative option": {"composition": STACK.replace("dim=2", "dim=-1")},
    "composition with an unhashable": {"composition": "Stack(Dual(between={[]: 1}))"},
    "composition of 1 MB": {"composition": "Stack(" + "Dual()," * 140_000 + ")"},
    "composition nested": {"composition": "Stack(" * 400 + ")" * 400},
    "composition of minuses": {"composition": f"Stack(Dual(sets={'-' * 9000}1))"},
    "composition of 5 000 digits": {"composition": f"Stack(Dual(sets={'9' * 5000}))"},
    "composition with a null byte": {"composition": "Stack(Dual()\x00)"},
    "composition with an escape": {"composition": f"Stack({ESCAPE})"},
    "composition of nothing": {"composition": "Stack()"},
    "composition twice": {"composition": "Stack(Dual(), Dual())"},
    "no network": {"net": GONE},
    "network a list": {"net": []},
    "network without a name": {"net": {}},
    "network unknown": {"net": {"name": "../../etc/passwd"}},
    "network name an escape": {"net": {"name": ESCAPE}},
    "network name a number": {"net": {"name": 7}},
    "no dials": {"dials": GONE},
    "dials empty": {"dials": []},
    "dials of text": {"dials": ["robustness"]},
    "dials another": {"dials": [{"name": "width"}]},
    "dial map of text": {"dial_map": "x"},
    "dial map without blends": {"dial_map": {"position": [0.0, 1.0], "level": [0.0, 1.0]}},
    "dial map falls": {"dial_map": {"position": [0, 1], "level": [1, 0], "blend": [0, 1]}},
    "dial map beyond 1": {"dial_map": {"position": [0, 1], "level": [0, 9], "blend": [0, 1]}},
    "dial map NaN": {"dial_map": {"position": [0, 1], "level": [float("nan")] * 2, "blend": [0, 1]}},
    "dial map of text numbers": {"dial_map": {"position": ["0", "1"], "level": [0, 1], "blend": [0, 1]}},
    "dial map of one knot": {"dial_map": {"position": [0], "level": [0], "blend": [0]}},
    "dial map unequal": {"dial_map": {"position": [0, 1], "level": [0, 0.5, 1], "blend": [0, 1]}},
    "points a list": {"points": []},
    "point of an unknown dial": {"points": {"x": {"speed": 1}}},
    "point beyond its dial": {"points": {"x": {"robustness": 2}}},
    "point infinite": {"points": {"x": {"robustness": float("inf")}}},
    "point NaN": {"points": {"x": {"robustness": float("nan")}}},
    "point of text": {"points": {"x": {"robustness": "1"}}},
    "point named self": {"points": {"x": {"self": 1}}},
    "point without a name": {"points": {"": {"robustness": 1}}},
    "point with an escape": {"points": {ESCAPE: {"robustness": 1}}},
    "point with a name of 1 MB": {"points": {"x" * 2**20: {"robustness": 1}}},
    "classes a number": {"classes": 10},
    "classes too few": {"classes": ["a"]},
    "classes too many": {"classes": ["a"] * 1000},
    "classes numbers": {"classes": list(range(10))},
    "class with an escape": {"classes": [*CLASSES[:9], ESCAPE]},
    "class of 1 MB": {"classes": [*CLASSES[:9], "x" * 2**20]},
    "threat a list": {"threat": []},
    "eps NaN": {"threat": {"eps": float("nan")}},
    "eps infinite": {"threat": {"eps": float("inf")}},
    "eps negative": {"threat": {"eps": -1}},
    "eps of text": {"threat": {"eps": "8/255"}},
    "norm unknown": {"threat": {"norm": "l7", "eps": 0.1}},
    "provenance a number": {"provenance": 3},
    "flags a number": {"provenance": {"flags": 3}},
    "data set a list": {"provenance": {"dataset": ["digits"]}},
    "recipe of text": {"provenance": {"recipe": "x"}},
    "recipe with a section of text": {"provenance": {"recipe": {"data": "x"}}},
    "recipe named by a number": {"provenance": {"recipe": {"name": 5}}},
    "recipe with a method of text": {"provenance": {"recipe": {"method": "x"}}},
    "recipe with a count of text": {"provenance": {"recipe": {"data": {"calibrate": "x"}}}},
    "provenance with an escape": {"provenance": {"note": [{"deep": ESCAPE}]}},
    "measured a list": {"measured": []},
    "measured of text": {"measured": {"safe": "good"}},
    "temperature 0": {"measured": {"safe": {"temperature": 0}}},
    "temperature negative": {"measured": {"safe": {"temperature": -1}}},
    "temperature NaN": {"measured": {"safe": {"temperature": float("nan")}}},
    "temperature infinite": {"measured": {"safe": {"temperature": float("inf")}}},
    "temperature tiny": {"measured": {"safe": {"temperature": 1e-300}}},
    "temperature of text": {"measured": {"safe": {"temperature": "1"}}},
    "bound above 1": {"measured": {"safe": {"robust_bound": 7}}},
    "bound NaN": {"measured": {"safe": {"robust_bound": float("nan")}}},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "base_width 1e9": {"base_width": 10**9},
    "base_width 1e30": {"base_width": 10**30},
    "base_width 0": {"base_width": 0},
    "base_width of text": {"base_width": "4"},
    "base_width a float": {"base_width": 4.5},
    "base_width NaN": {"base_width": float("nan")},
    "base_width another": {"base_width": 8},
    "depth 9": {"depth": 9},
    "depth true": {"depth": True},
    "depth 1e18": {"name": "wide_resnet", "depth": 6 * 10**17 + 4, "widen": 1},
    "widen 1e9": {"name": "wide_resnet", "depth": 10, "widen": 10**9},
    "width infinite": {"name": "mobilenet_v2", "depth": GONE, "base_width": GONE, "width": float("inf")},
    "option unknown": {"speed": 1},
    "classes 1e12": {"classes": 10**12},
    "classes 0": {"classes": 0},
    "image of 1e9 pixels a side": {"image": [1, 10**9, 10**9]},
    "image of 16 384 pixels a side": {"image": [1, 2**14, 2**14]},
    "image of text": {"image": "188"},
    "image of one number": {"image": [8]},
    "image of 7 channels": {"image": [7, 8, 8]},
    "mean infinite": {"mean": [float("inf")]},
    "mean of text": {"mean": ["x"]},
    "std 0": {"std": [0.0]},
    "std of 1 000 numbers": {"std": [1.0] * 1000},
}


def _tensors(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with something wrong."""
    weight = next(k for k, v in tensors.items() if v.ndim == 4)
    norm = next(k for k in tensors if k.endswith("running_var"))
    changes: dict[str, Callable[[], dict[str, Tensor]]] = {
        "a tensor is missing": lambda: {k: v for k, v in tensors.items() if k != weight},
        "all tensors are missing": lambda: {},
        "a tensor too many": lambda: {**tensors, "extra": torch.zeros(3)},
        "an empty tensor too many": lambda: {**tensors, "extra": torch.zeros(0, 2**40)},
        "a tensor with an escape": lambda: {**tensors, ESCAPE: torch.zeros(3)},
        "a tensor of another shape": lambda: {**tensors, weight: tensors[weight].flatten()},
        "a tensor with a dimension more": lambda: {**tensors, weight: tensors[weight][None]},
        "a tensor of halves": lambda: {**tensors, weight: tensors[weight].half()},
        "a tensor of doubles": lambda: {**tensors, weight: tensors[weight].double()},
        "a tensor of whole numbers": lambda: {**tensors, weight: torch.ones(tensors[weight].shape, dtype=torch.int64)},
        "a tensor of truths": lambda: {**tensors, weight: tensors[weight] > 0},
        "a NaN": lambda: {**tensors, weight: tensors[weight] * float("nan")},
        "an infinity": lambda: {**tensors, weight: tensors[weight] / 0},
        "a negative variance": lambda: {**tensors, norm: -tensors[norm] - 1},
    }
    return changes[kind]() if kind in changes else {}


TENSORS = (
    "a tensor is missing",
    "all tensors are missing",
    "a tensor too many",
    "an empty tensor too many",
    "a tensor with an escape",
    "a tensor of another shape",
    "a tensor with a dimension more",
    "a tensor of halves",
    "a tensor of doubles",
    "a tensor of whole numbers",
    "a tensor of truths",
    "a NaN",
    "an infinity",
    "a negative variance",
)


def model_files(folder: Path) -> dict[str, bytes]:
    """Every hostile description, network and tensor as a file, by what is wrong with it."""
    tensors, about = parts(folder)
    found = {k: written(tensors, about | v, rehash=not k.startswith("hash")) for k, v in DESCRIPTIONS.items()}
    for kind, change in NETWORKS.items():
        net = {k: v for k, v in {**about["net"], **change}.items() if v is not GONE}
        found[f"network: {kind}"] = written(tensors, about | {"net": net})
    found |= {kind: written(_tensors(kind, tensors), about) for kind in TENSORS}
    exits, words = parts(folder, "rdi")
    found["thresholds infinite"] = written({**exits, "net.thresholds": exits["net.thresholds"] / 0}, words)
    for kind, positions in {"1e9": [10**9], "-1": [-1], "of 100 000": list(range(100_000))}.items():
        changed = words["composition"].replace("positions=(", f"positions=({', '.join(map(str, positions))}, ")
        found[f"exit after block {kind}"] = written(exits, words | {"composition": changed})
    found["exits on an image of 2 048 pixels a side"] = written(
        exits, words | {"net": {**words["net"], "image": [1, 2048, 2048], "base_width": 10**4}}
    )
    return found
