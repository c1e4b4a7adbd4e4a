"""Replace the layers of a traced graph by seats, and pass the operating point to each call of a seat."""

from __future__ import annotations

import operator
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from rheostat.models import seating
from rheostat.models.seating import FROZEN, LAYERS, RENAMED, SEATS, SIGNATURES
from rheostat.models.tracing import Traced
from rheostat.nn.layers import Conv, Dense, Dropout, normed
from rheostat.nn.norms import Norm

STATEFUL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RNNBase)
Call = tuple[Any, dict[str, str], dict[str, Any]]
"""A functional call: the function, the names of the tensors that it takes, and its other arguments."""
Padding = tuple[tuple[int, ...], str]
"""The sizes and the mode of a padding, as `F.pad` takes them."""
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def thread(root: nn.Module, found: Traced) -> dict[str, str]:
    """Replace layers by seats in place; every call of a seat takes the operating point `at` as its last argument.

    Returns the names that the module has for the tensors whose names a seat changes.
    """
    graph = found.graph
    images = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(images):
        at = graph.placeholder("at")
    calls: dict[str, Call] = {}
    padding: dict[str, Padding] = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in FROZEN:
            raise ValueError(
                f"the forward calls {node.target.__name__}, whose mode tracing would freeze; use the layer instead"
            )
        if node.op == "call_function" and node.target in SIGNATURES:
            _seat_call(root, found, node, calls)
        elif node.op == "call_module":
            _seat_layer(root, graph, node, padding)
        if node.op == "call_module" and isinstance(root.get_submodule(str(node.target)), SEATS):
            node.args, node.kwargs = (*(node.args or tuple(node.kwargs.values()))[:1], at), {}
    _refuse_second_uses(root, graph, {name for _, stored, _ in calls.values() for name in stored.values()})
    _drop_idle(root, found)
    _add_in_place(root, found)
    _finish(root, graph)
    return _own_names(root, calls)


def _seat_layer(root: nn.Module, graph: fx.Graph, node: fx.Node, padding: dict[str, Padding]) -> None:
    """Replace a layer at its first call; `padding` holds what every call of a convolution pads before it."""
    name = str(node.target)
    layer = root.get_submodule(name)
    make = LAYERS.get(type(layer))
    if make is not None:
        _put(root, name, make(name, layer))
        if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
            padding[name] = tuple(layer._reversed_padding_repeated_twice), layer.padding_mode
    if name in padding:
        size, mode = padding[name]
        (given,) = (*node.args, *node.kwargs.values())
        with graph.inserting_before(node):
            node.args, node.kwargs = (graph.call_function(F.pad, (given, size), {"mode": mode}),), {}
    if make is not None or isinstance(layer, SEATS):
        return
    if isinstance(layer, WEIGHTED):
        raise ValueError(
            f"layer {name!r} is a {type(layer).__name__}, which no method can condition; layers that become seats: "
            f"{', '.join(k.__name__ for k in LAYERS)}"
        )
    inner = [n for n, m in layer.named_modules() if isinstance(m, STATEFUL) and getattr(m, "p", 1) != 0]
    if inner:
        raise ValueError(
            f"layer {name!r} ({type(layer).__name__}) holds {inner[0]!r}, which depends on its own mode and is out "
            "of reach inside a PyTorch layer; build the block from its parts"
        )


def _seat_call(root: nn.Module, found: Traced, node: fx.Node, calls: dict[str, Call]) -> None:
    """Turn a functional call on a layer's tensors into a call of a seat; ValueError if the tensors are computed.

    `calls` holds the calls that became seats so far, by the name of their seat. Calls that are the same share a seat.
    """
    target: Any = node.target
    names = SIGNATURES[target]
    given = dict(zip(names, node.args, strict=False)) | {RENAMED.get(k, k): v for k, v in node.kwargs.items()}
    stored: dict[str, str] = {}
    for name in ("weight", "bias", "mean", "var"):
        value = given.get(name)
        if isinstance(value, fx.Node) and value.op == "get_attr":
            stored[name] = str(value.target)
        elif value is not None:
            if target is F.linear:
                return  # an ordinary product
            raise ValueError(
                f"the forward calls {target.__name__} with a {name} that it computes (in {_where(found, node)}); "
                "only a layer that stores the weight it uses can be adopted"
            )
    call = target, stored, {k: v for k, v in given.items() if k not in stored and k != "input" and v is not None}
    name = _shared_seat(calls, call) or _name_for(root, found.graph, stored, node, calls)
    if name not in calls and not isinstance(_submodule(root, name), SEATS):
        tensors = {k: operator.attrgetter(v)(root) for k, v in stored.items()}
        _put(root, name, _made(name, target, given, tensors))
    calls.setdefault(name, call)
    node.op, node.target = "call_module", name
    node.args, node.kwargs = (given["input"],), {}


def _shared_seat(calls: dict[str, Call], call: Call) -> str:
    """The seat of an earlier call with the same weight, or nothing; ValueError if the two calls differ otherwise."""
    for name, earlier in calls.items():
        if "weight" in call[1] and earlier[1].get("weight") == call[1]["weight"]:
            if earlier != call:
                raise ValueError(
                    f"the forward uses the weight {call[1]['weight']!r} in two calls that differ in their function, "
                    "bias or options; one layer can take its place only where the calls are the same"
                )
            return name
    return ""


def _refuse_second_uses(root: nn.Module, graph: fx.Graph, taken: set[str]) -> None:
    """ValueError if the forward uses a tensor that a seat has taken over, unless the seat has it by the same name."""
    for node in graph.nodes:
        name = str(node.target)
        if node.op != "get_attr" or not node.users or name not in taken:
            continue
        owner, _, key = name.rpartition(".")
        seat = _submodule(root, owner)
        if not isinstance(seat, Conv | Dense) or not hasattr(seat, key):
            raise ValueError(
                f"the forward uses {name!r} in a layer's call and elsewhere; adoption would make it two tensors, "
                "so give each use its own"
            )


def _made(name: str, target: Any, given: dict[str, Any], tensors: dict[str, Any]) -> nn.Module:
    weight: Any = tensors.get("weight")
    bias = tensors.get("bias")
    if target is F.linear:
        return seating.dense(weight, bias)
    if target is F.layer_norm:
        return seating.layer_norm(name, tuple(given["shape"]), weight, bias, given.get("eps", 1e-5))
    if target is F.group_norm:
        if weight is None:
            raise ValueError(f"layer {name!r}: a group norm without a weight is not supported; use one with a weight")
        return seating.group_norm(weight.numel(), given["groups"], weight, bias, given.get("eps", 1e-5))
    if target is F.batch_norm:
        if "mean" not in tensors or "var" not in tensors or not given.get("momentum", 0.1):
            raise ValueError(f"layer {name!r}: a batch norm needs a momentum and running statistics")
        statistics = tensors["mean"], tensors["var"]
        return seating.batch_norm(*statistics, weight, bias, given.get("momentum", 0.1), given.get("eps", 1e-5))
    shape = {k: given[k] for k in ("stride", "padding", "dilation", "groups") if k in given}
    plain = nn.Conv2d(
        weight.shape[1] * shape.get("groups", 1), weight.shape[0], weight.shape[2:], bias=bias is not None, **shape
    )
    plain.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return seating.conv_of(name, seating.trained_alike(plain, weight, bias))


def _name_for(root: nn.Module, graph: fx.Graph, stored: dict[str, str], node: fx.Node, calls: dict[str, Call]) -> str:
    """The name of a seat that replaces a call: that of the layer that owns its weight, or one inside that layer.

    It is inside if the layer has sublayers or other tensors that the forward uses.
    """
    owner, _, weight = stored.get("weight", "").rpartition(".")
    if not owner:
        return f"{node.name}_seat"
    inside = [other for other in graph.nodes if str(other.target).startswith(f"{owner}.")]
    parts = any(other.op == "call_module" and other.target not in calls for other in inside)
    if not parts and all(other.op == "get_attr" and other.target in stored.values() for other in inside):
        return owner
    holder = root.get_submodule(owner)
    name = "seat" if parts and not hasattr(holder, "seat") else f"{weight}_seat"
    while hasattr(holder, name):
        name += "_"
    return f"{owner}.{name}"


def _own_names(root: nn.Module, calls: dict[str, Call]) -> dict[str, str]:
    """The module's names of the tensors that have other names in a seat."""
    found: dict[str, str] = {}
    for name, seat in root.named_modules():
        if isinstance(seat, Norm):
            found |= {f"{name}.source.{key}": f"{name}.{key}" for key in seat.source.state_dict()}
    given = {ours: theirs for theirs, ours in RENAMED.items()}
    for name, (_, stored, _) in calls.items():
        inside = f"{name}.source" if isinstance(root.get_submodule(name), Norm) else name
        found |= {f"{inside}.{given.get(key, key)}": own for key, own in stored.items()}
    return found


def _where(found: Traced, node: fx.Node) -> str:
    return next((repr(name) for name, end in found.ends.items() if end is node), repr(node.name))


def _submodule(root: nn.Module, name: str) -> nn.Module | None:
    try:
        return root.get_submodule(name)
    except AttributeError:
        return None


def _put(root: nn.Module, name: str, seat: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, seat)


def _drop_idle(root: nn.Module, found: Traced) -> None:
    """Remove layers that do nothing, and tensors that seats have taken over."""
    for node in reversed(list(found.graph.nodes)):
        if node.op == "get_attr" and not node.users:
            found.graph.erase_node(node)
        if node.op != "call_module":
            continue
        layer = root.get_submodule(str(node.target))
        if type(layer) is nn.Identity or (isinstance(layer, Dropout) and not layer.rate):
            before = node.args[0]
            assert isinstance(before, fx.Node)
            node.replace_all_uses_with(before)
            found.graph.erase_node(node)
            found.ends = {name: before if end is node else end for name, end in found.ends.items()}


def _add_in_place(root: nn.Module, found: Traced) -> None:
    """Turn sums onto a batch norm's output into `+=` if nothing else reads that output; this saves memory."""
    for node in found.graph.nodes:
        if node.target is not operator.add or len(node.args) != 2:
            continue
        for first, second in (node.args, reversed(node.args)):
            norm = isinstance(first, fx.Node) and first.op == "call_module" and len(first.users) == 1
            same = [getattr(found.values.get(n), "shape", None) for n in (first, node)]
            if norm and same[0] == same[1] is not None and type(root.get_submodule(str(first.target))) is Norm:
                node.target, node.args = operator.iadd, (first, second)
                break


def merge_norms(root: nn.Module, graph: fx.Graph) -> None:
    """Call a convolution and the norm that alone reads it together, so that attacks merge them (see `normed`)."""
    for node in list(graph.nodes):
        before = node.args[0] if node.args else None
        pair = [n for n in (before, node) if isinstance(n, fx.Node) and n.op == "call_module"]
        kinds = [type(root.get_submodule(str(n.target))) for n in pair]
        if kinds != [Conv, Norm] or len(pair[0].users) > 1:
            continue
        with graph.inserting_before(node):
            layers = [graph.get_attr(str(n.target)) for n in pair]
            both = graph.call_function(normed, (*layers, *pair[0].args))
        node.replace_all_uses_with(both)
        for done in reversed(pair):
            graph.erase_node(done)


def _finish(root: nn.Module, graph: fx.Graph) -> None:
    """Mark the first convolution, whose input contains δ, and the heads: Dense layers that no other seat follows."""
    convs = [m for m in _layers(root, graph) if isinstance(m, Conv)]
    if convs:
        convs[0].exact = True
    for layer in last_layers(root, graph).values():
        if isinstance(layer, Dense):
            layer.head, layer.conditioned = True, False


def _layers(root: nn.Module, graph: fx.Graph) -> list[nn.Module]:
    return [root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]


def last_layers(root: nn.Module, graph: fx.Graph) -> dict[str, Conv | Dense]:
    """The layers with weights that no other such layer follows, by name: their outputs are the logits."""
    ahead = [node for node in graph.nodes if node.op == "output"]
    seen, found = set(ahead), {}
    while ahead:
        node = ahead.pop()
        layer = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Conv | Dense):
            found[str(node.target)] = layer
            continue
        before = [one for one in node.all_input_nodes if one not in seen]
        ahead += before
        seen.update(before)
    return found
