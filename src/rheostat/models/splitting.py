"""Cut a traced network into blocks, which exits and early exit need.

A cut is possible after a layer whose output is a feature map and the only input of everything later. Blocks end after
the named layers, and after the last such layer of every resolution.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from rheostat.models.graph_seats import merge_norms
from rheostat.models.tracing import Traced
from rheostat.nn.layers import Conv
from rheostat.runtime.choices import nearest


@dataclass(frozen=True)
class Cut:
    """A possible cut: the last node before it, the names of that node's layer, (H, W) and the number of convolutions
    before it."""

    node: fx.Node
    names: tuple[str, ...]
    size: tuple[int, int]
    convs: int


@dataclass(frozen=True)
class Blocks:
    """A network cut into pieces: blocks that yield features, the remainder, the blocks that exits follow by default,
    and the names of layers that an exit can follow."""

    blocks: tuple[fx.GraphModule, ...]
    rest: fx.GraphModule
    exit_positions: tuple[int, ...]
    exit_layers: tuple[str, ...]


def split(root: nn.Module, found: Traced, exits: Sequence[str] = ()) -> Blocks:
    """Cut the graph of a network into blocks; ValueError if no exit can follow a named layer."""
    places = cuts(root, found)
    candidates = tuple(place.names[0] for place in places[:-1])
    by_name = {name: place for place in places for name in place.names}
    for name in exits:
        if name not in by_name:
            raise ValueError(f"no exit can follow a layer {name!r}; {nearest(name, candidates)}")
    ends = {place.size: place for place in places}  # the last one of each resolution
    named = [by_name[name] for name in exits]
    chosen = [place for place in places if place in ends.values() or place in named]
    if chosen and chosen[-1] in named:
        raise ValueError(
            f"an exit after {exits[named.index(chosen[-1])]!r} would be the network's own end; name an earlier layer: "
            f"{', '.join(candidates)}"
        )
    if len(chosen) < 2:
        chosen = []  # no feature maps before the last one
    wanted = named or [place for place in chosen[:-1] if place.convs > 1]
    positions = tuple(i for i, place in enumerate(chosen) if place in wanted)
    *blocks, rest = _pieces(root, found.graph, [place.node for place in chosen])
    return Blocks(tuple(blocks), rest, positions, candidates)


def cuts(root: nn.Module, found: Traced) -> list[Cut]:
    """All possible cuts in graph order, up to the resolution of the last convolution."""
    nodes = list(found.graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    named: dict[fx.Node, list[str]] = {}
    for name, node in found.ends.items():
        named.setdefault(node, []).append(name)
    shared = _shared(root, nodes, order)
    places: list[Cut] = []
    reach, convs, least = -1, 0, 0
    for i, node in enumerate(nodes):
        value = found.values.get(node)
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        if node.op == "call_module" and isinstance(root.get_submodule(str(node.target)), Conv):
            convs, least = convs + 1, min(shape[2:])
        whole = len(shape) == 4 and reach <= i and not any(first <= i < last for first, last in shared)
        if whole and convs and node in named and not any(_in_place(root, user) for user in node.users):
            places.append(Cut(node, tuple(sorted(named[node], key=len)), (shape[2], shape[3]), convs))
        if node.op != "get_attr" and node.target != "at":
            reach = max([reach, *(order[user] for user in node.users)])
    return [place for place in places if min(place.size) >= least]


def _shared(root: nn.Module, nodes: list[fx.Node], order: dict[fx.Node, int]) -> list[tuple[int, int]]:
    """(first, last) use of every layer or tensor with stored values that is used more than once."""
    uses: dict[str, list[int]] = {}
    for node in nodes:
        if node.op == "get_attr":
            uses.setdefault(str(node.target), []).extend(order[user] for user in node.users)
        elif node.op == "call_module" and any(True for _ in root.get_submodule(str(node.target)).parameters()):
            uses.setdefault(str(node.target), []).append(order[node])
    return [(min(found), max(found)) for found in uses.values() if len(found) > 1]


def _in_place(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node changes its input in place, although an exit's head still needs it."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.target is operator.iadd:
        return True
    return str(getattr(node.target, "__name__", node.target)).endswith("_") or bool(node.kwargs.get("inplace"))


def _pieces(root: nn.Module, graph: fx.Graph, ends: list[fx.Node]) -> list[fx.GraphModule]:
    """The graph modules between the given nodes, each (x, at) → x."""
    found = []
    piece, known = _started()
    images = next(node for node in graph.nodes if node.op == "placeholder")
    known[images] = known["x"]
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            continue
        for used in node.all_input_nodes:
            if used not in known:
                known[used] = known["at"] if used.op == "placeholder" else piece.node_copy(used)
        known[node] = piece.node_copy(node, known.__getitem__)
        if node in ends:
            piece.output(known[node])
            found.append(_compiled(root, piece))
            piece, known = _started()
            known[node] = known["x"]
    return [*found, _compiled(root, piece)]


def _compiled(root: nn.Module, piece: fx.Graph) -> fx.GraphModule:
    for node in piece.nodes:
        node.type = None  # the user's annotations may be strings, with which a graph cannot be pickled
    merge_norms(root, piece)
    return fx.GraphModule(root, piece, class_name="Piece")


def _started() -> tuple[fx.Graph, dict[fx.Node | str, fx.Node]]:
    piece = fx.Graph()
    return piece, {"x": piece.placeholder("x"), "at": piece.placeholder("at")}
