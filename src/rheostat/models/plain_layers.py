"""Plain layers in place of seats: the tools with which a traced pass is folded.

Norms and FiLM become an affine map, which is merged into the preceding convolution where that is exact, and otherwise
stays a per-channel affine map (norms before an activation, shifts before padding). Channels that no layer reads are cut
out.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from rheostat.nn.feature_norms import FeatureNorm, GroupNorm
from rheostat.nn.layers import Conv, Dense, Dropout, Normalise, Seat, kernel
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved

LEAVES = (Conv, Dense, Norm, Dropout, Normalise)


class Affine(nn.Module):
    """x·scale + shift per channel: (B, C, H, W) → the same."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.reshape(1, -1, 1, 1))
        self.shift = nn.Parameter(shift.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


class DoesNotFold(ValueError):
    """Raised if a pass is one fixed network but cannot be written as plain layers."""


class _Tracer(fx.Tracer):
    """A tracer for which seats are leaves and their operating point is a constant.

    `seen` maps the node of each call of a seat to the point of that call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[fx.Node, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(m, LEAVES):
            called = self.create_proxy("call_module", self.path_of_module(m), (args[0],), {})
            self.seen[called.node] = args[1] if args[1:] else None
            return called
        return super().call_module(m, forward, args, kwargs)


def plain(root: nn.Module, example: Tensor) -> fx.GraphModule:
    """A root module, one tensor → tensors, with plain layers in place of its seats; the root itself is used up.

    The root's forward binds the operating point. `example` is an input, which is run once to record each seat's
    effective weight. A seat that is called several times becomes one plain layer per call. `DoesNotFold` if the pass
    cannot be traced.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(root)
    except fx.proxy.TraceError as error:
        raise DoesNotFold(f"the pass cannot be traced ({error}); it does not fold") from None
    _replace(root, graph, tracer.seen, example)
    folded = fx.GraphModule(root, graph, class_name="Folded").eval()
    _cut(folded)
    folded.recompile()
    return folded


def _replace(root: nn.Module, graph: fx.Graph, seen: dict[fx.Node, Any], example: Tensor) -> None:
    """Replace seats by plain layers, using a pass that records each seat's effective weight."""
    values: dict[fx.Node, Any] = {}
    seats = {node: root.get_submodule(str(node.target)) for node in seen}
    for node in list(graph.nodes):
        if node.op == "placeholder":
            values[node] = example
        elif node in seen:
            seat, at, x = seats[node], seen[node], values[node.args[0]]
            if isinstance(seat, Dropout):
                node.replace_all_uses_with(node.args[0])
                values[node] = x
                graph.erase_node(node)
                continue
            values[node] = seat(x) if isinstance(seat, Normalise) else seat(x, at)
            if isinstance(seat, Norm) and not isinstance(seat, FeatureNorm) and _into_convolution(root, node, seat, at):
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
                values[node.args[0]] = values[node]
                continue
            if not isinstance(seat, Normalise):
                node.target = _free(root, str(node.target))
                _put(root, node.target, _layer(seat, x, at))
        elif node.op != "output":
            values[node] = _run(root, node, values)


def _free(root: nn.Module, name: str) -> str:
    """The name for a seat's plain layer: the seat's own, or one beside it if an earlier call's layer has that name."""
    if isinstance(root.get_submodule(name), LEAVES):
        return name
    place, _, last = name.rpartition(".")
    call = next(n for n in itertools.count(2) if not hasattr(root.get_submodule(place), f"{last}_{n}"))
    return f"{name}_{call}"


def _run(root: nn.Module, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    arguments = fx.map_arg(node.args, lambda n: values[n])
    options = fx.map_arg(node.kwargs, lambda n: values[n])
    # An in-place activation would change a stored value.
    arguments = tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)
    if node.op == "call_function":
        return node.target(*arguments, **options)  # type: ignore[operator]
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(root)  # a parameter or a buffer
    return root.get_submodule(str(node.target))(*arguments, **options)


def _weight(seat: Seat, x: Tensor, at: Resolved) -> Tensor:
    """A seat's kernel at a point as one tensor: the sum of its parts."""
    total: Tensor | None = None
    for weight, amount in kernel(seat, x, at):
        term = weight if amount is None else weight * amount[0]
        total = term if total is None else total + term
    assert total is not None
    return total.detach().clone()


def _layer(seat: nn.Module, x: Tensor, at: Resolved) -> nn.Module:
    if isinstance(seat, Norm):
        scale, shift = seat.table(at)
        return _feature_norm(seat, scale[0], shift[0]) if isinstance(seat, FeatureNorm) else Affine(scale[0], shift[0])
    assert isinstance(seat, Conv | Dense)
    weight = _weight(seat, x, at)
    plain: nn.Module
    if isinstance(seat, Dense):
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=seat.bias is not None)
    else:
        groups = seat.groups if seat.groups == 1 else x.shape[1] * seat.groups // seat.in_channels
        shape: dict[str, Any] = {name: getattr(seat, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        plain = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], groups=groups, bias=seat.bias is not None, **shape)
    plain.to(weight.device)
    plain.weight = nn.Parameter(weight)
    if seat.bias is not None:
        plain.bias = nn.Parameter(seat.bias.detach()[: weight.shape[0]].clone())
    return plain


def _feature_norm(seat: FeatureNorm, scale: Tensor, shift: Tensor) -> nn.Module:
    """PyTorch's layer or group norm with a point's scale and shift."""
    channels = scale.numel()
    plain: nn.LayerNorm | nn.GroupNorm
    if isinstance(seat, GroupNorm):
        plain = nn.GroupNorm(seat.groups_of(channels), channels, eps=seat.eps)
    else:
        plain = nn.LayerNorm(channels, eps=seat.eps)
    plain.to(scale.device)
    plain.weight, plain.bias = nn.Parameter(scale.detach().clone()), nn.Parameter(shift.detach().clone())
    return plain


def _into_convolution(root: nn.Module, node: fx.Node, norm: Norm, at: Resolved) -> bool:
    """Fold a norm's affine map into the preceding convolution, if no other layer reads that convolution's output."""
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
        return False
    conv = root.get_submodule(str(before.target))
    if not isinstance(conv, nn.Conv2d) or isinstance(conv, Conv):
        return False
    scale, shift = norm.table(at)
    conv.weight.mul_(scale[0][:, None, None, None])
    bias = shift[0] if conv.bias is None else shift[0] + conv.bias * scale[0]
    conv.bias = nn.Parameter(bias.detach().clone())
    return True


def _cut(folded: fx.GraphModule) -> None:
    """Remove channels for which a convolution's only reader has zero weights."""
    for node in reversed(list(folded.graph.nodes)):
        reader = _conv_of(folded, node)
        if reader is None or reader.groups != 1:
            continue
        chain = _makers(folded, node)
        keep = reader.weight.detach().abs().amax((0, 2, 3)) > 0
        if not chain or bool(keep.all()) or not bool(keep.any()):
            continue
        reader.weight = nn.Parameter(reader.weight[:, keep].clone())
        reader.in_channels = int(keep.sum())
        for layer in chain:
            for name, parameter in list(layer.named_parameters()):
                dim = 1 if isinstance(layer, Affine) else 0
                rows = keep.nonzero()[:, 0]
                setattr(layer, name, nn.Parameter(parameter.index_select(dim, rows).clone()))
            if isinstance(layer, nn.Conv2d):
                layer.out_channels = int(keep.sum())
                if layer.groups != 1:
                    layer.groups = layer.in_channels = int(keep.sum())


def _conv_of(folded: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    if node.op != "call_module":
        return None
    layer = folded.get_submodule(str(node.target))
    return layer if isinstance(layer, nn.Conv2d) else None


def _makers(folded: fx.GraphModule, node: fx.Node) -> list[nn.Module]:
    """The layers from the one that makes a convolution's input channels up to that convolution, or an empty list.

    It goes only through layers that treat channels separately and have no other reader: activations, affine maps,
    max-pooling, depthwise convolutions.
    """
    found: list[nn.Module] = []
    place = node.args[0]
    while isinstance(place, fx.Node) and len(place.users) == 1:
        if place.op == "call_function" and place.target in (F.relu, F.relu_, F.silu, F.max_pool2d):
            place = place.args[0]
            continue
        if place.op != "call_module":
            return []
        layer = folded.get_submodule(str(place.target))
        found.append(layer)
        if isinstance(layer, nn.Conv2d) and (layer.groups == 1 or layer.groups != layer.in_channels):
            return found if layer.groups == 1 else []
        if not isinstance(layer, nn.Conv2d | Affine):
            return []
        place = place.args[0]
    return []


def _put(root: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, layer)
