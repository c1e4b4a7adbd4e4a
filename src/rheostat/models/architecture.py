"""Describe a traced network in lines of text: operations, types, shapes and options, without weights.

The file of an adopted network holds these lines and their hash, so that it never loads into a different network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from rheostat.nn.layers import Conv, Dense
from rheostat.nn.norms import Norm, NormSet


def lines_of(root: nn.Module, graph: fx.Graph) -> tuple[str, ...]:
    """One line for each operation of a graph, in graph order."""
    number = {node: i for i, node in enumerate(graph.nodes)}

    def given(value: Any) -> Any:
        return fx.node.map_arg(value, lambda node: _Reference(number[node]))

    found = []
    for node in graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        named = (f"{k}={_text(given(v))}" for k, v in node.kwargs.items())
        options = ", ".join([*map(_text, given(node.args)), *named])
        if node.op == "call_module":
            found.append(f"{node.target}: {layer(root.get_submodule(name))} ({options})")
        elif node.op == "get_attr":
            value = _attribute(root, name)
            found.append(f"{name}: {tuple(value.shape)} {value.dtype}")
        else:
            found.append(f"{node.op} {name} ({options})")
    return tuple(found)


class _Reference(int):
    """The number of another operation."""


def _text(value: Any) -> str:
    if isinstance(value, _Reference):
        return f"%{int(value)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_text, value))})"
    return repr(value)


def _attribute(root: nn.Module, name: str) -> Tensor:
    parent, _, last = name.rpartition(".")
    value: Tensor = getattr(root.get_submodule(parent), last)
    return value


def layer(module: nn.Module) -> str:
    """A layer's type, shapes and options in one line."""
    if isinstance(module, Conv):
        named = {k: getattr(module, k) for k in ("stride", "padding", "dilation", "groups")}
        return f"Conv {tuple(module.weight.shape)} bias={module.bias is not None} {named}"
    if isinstance(module, Dense):
        return f"Dense {tuple(module.weight.shape)} bias={module.bias is not None}"
    if isinstance(module, Norm):
        source = module.source
        kept = f" eps={source.eps} momentum={source.momentum}" if isinstance(source, NormSet) else ""
        return f"{type(module).__name__} {module.channels}{kept} {module.extra_repr()}".rstrip()
    shapes = [tuple(p.shape) for p in module.parameters()]
    return " ".join(f"{module!r} {shapes or ''}".split())


def digest_of_lines(lines: Sequence[str]) -> str:
    """The hash of an architecture."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def difference(expected: Sequence[str], given: Sequence[str]) -> str:
    """The first difference between two architectures, in words."""
    for a, b in zip(expected, given, strict=False):
        if a != b:
            return f"the file has {a!r} where this network has {b!r}"
    longer = expected if len(expected) > len(given) else given
    who = "the file" if longer is expected else "this network"
    return f"{who} continues with {longer[min(len(expected), len(given))]!r}"
