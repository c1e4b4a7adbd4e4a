"""A user's own convolutional module made tunable: its layers become seats, its weights are kept.

The module's forward is traced (torch.fx) and the operating point threaded through the graph as an
argument; nothing is poked, so an adopted network is as safe between threads as one of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from rheostat.methods import Method, Stack, compose
from rheostat.models.tunable import Tunable
from rheostat.nets.base import Net, check_image
from rheostat.nn.layers import Conv, Dense, Dropout, Normalise
from rheostat.nn.norms import Norm, NormSet
from rheostat.points.resolved import Resolved

FORBIDDEN = (
    nn.BatchNorm1d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm2d,
    nn.ConvTranspose2d,
    nn.RNNBase,
    nn.AlphaDropout,
)
FORBIDDEN_FUNCTIONS = {F.dropout, F.dropout2d, F.batch_norm, F.alpha_dropout, F.instance_norm}


def _conv(name: str, layer: nn.Conv2d) -> Conv:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(
            f"layer {name!r}: padding {layer.padding!r} in mode {layer.padding_mode!r} is not "
            "supported; numbers and zeros are"
        )
    seat = Conv(
        layer.in_channels,
        layer.out_channels,
        kernel_size=layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    seat.load_state_dict(layer.state_dict())
    return seat


def _norm(name: str, layer: nn.BatchNorm2d) -> Norm:
    if layer.momentum is None or not layer.track_running_stats or not layer.affine:
        raise ValueError(f"layer {name!r}: a BatchNorm2d needs a momentum, running statistics and an affine map")
    source = NormSet(layer.num_features, eps=layer.eps, momentum=layer.momentum)
    source.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"})
    seat = Norm(layer.num_features)
    seat.source = source
    return seat


def _dense(name: str, layer: nn.Linear) -> nn.Module:
    if layer.bias is None:
        return layer
    seat = Dense(layer.in_features, layer.out_features)
    seat.load_state_dict(layer.state_dict())
    return seat


def _dropout(name: str, layer: nn.Dropout) -> Dropout:
    return Dropout(layer.p)


SEATS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _norm,
    nn.Linear: _dense,
    nn.Dropout: _dropout,
}


class Adopted(Net):
    """A traced user module as a network; it yields no features, so exits cannot be put on it."""

    def __init__(
        self, graph: fx.GraphModule, *, image: tuple[int, int, int], classes: int, normalise: Normalise
    ) -> None:
        super().__init__([], nn.Identity(), image=image, classes=classes, normalise=normalise)
        self.graph = graph
        self.spec = {}

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        logits: Tensor = self.graph(self.normalise(x), at)
        return logits.float()


def adopt(
    module: nn.Module,
    method: Method | str,
    *,
    image: tuple[int, int, int],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Tunable:
    """A tunable model with the weights of a module that maps images (B, C, H, W) to logits.

    `method` is a composition, or the name of one ("oat").
    Conv2d, BatchNorm2d, Linear and Dropout become seats; the module itself is not touched, and at
    rest the forward is unchanged. Not so with masks (floats, smart): of each convolution they keep the share
    `density` of the weights, the largest ones, and the others are 0 until training grows them again.
    `mean` and `std` normalise pixels of [0, 1] before it; without them the module gets pixels as they are.
    Raises ValueError that names the layers it cannot take, or why the forward cannot be traced.
    """
    found = compose(method) if isinstance(method, str) else method
    stack = found if isinstance(found, Stack) else Stack(found)
    shape = check_image(type(module).__name__, image, 1)
    own = copy.deepcopy(module).eval()
    _refuse(own)
    try:
        graph = fx.Tracer().trace(own)
    except (fx.proxy.TraceError, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"the forward of {type(module).__name__} cannot be traced ({error}); it may not branch on values of tensors"
        ) from None
    _thread(own, graph)
    _mark_head(own, graph, stack)
    traced = fx.GraphModule(own, graph)
    blank = (0.0,) * shape[0], (1.0,) * shape[0]
    normalise = Normalise(tuple(mean or blank[0]), tuple(std or blank[1]))
    net = Adopted(traced, image=shape, classes=0, normalise=normalise)
    model = Tunable(net, stack)
    with torch.no_grad():
        logits = model(torch.zeros(1, *shape))
    if logits.ndim != 2:
        raise ValueError(f"{type(module).__name__} returned shape {tuple(logits.shape)}, expected (B, classes)")
    net.classes = logits.shape[1]
    return model


def _refuse(module: nn.Module) -> None:
    spatial = nn.modules.dropout._DropoutNd  # every dropout there is
    bad = [
        f"{name!r} ({type(layer).__name__})"
        for name, layer in module.named_modules()
        if isinstance(layer, FORBIDDEN) or (isinstance(layer, spatial) and type(layer) is not nn.Dropout)
    ]
    if bad:
        allowed = ", ".join(k.__name__ for k in SEATS)
        raise ValueError(
            f"cannot adopt layers {', '.join(bad)}: they keep statistics or draw noise of their "
            f"own; layers that become seats: {allowed}"
        )


def _thread(module: nn.Module, graph: fx.Graph) -> None:
    """Exchange layers for seats, and give each call of one the operating point as its last argument."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"the forward takes {len(inputs)} arguments, expected the images alone")
    with graph.inserting_after(inputs[0]):
        at = graph.placeholder("at")
    for node in graph.nodes:
        if node.op == "call_function" and node.target in FORBIDDEN_FUNCTIONS:
            raise ValueError(
                f"the forward calls {node.target.__name__}, whose mode would be frozen; use the layer instead"
            )
        if node.op != "call_module":
            continue
        layer = module.get_submodule(str(node.target))
        make: Callable[..., Any] | None = SEATS.get(type(layer))
        if make is not None:
            seat = make(str(node.target), layer)
            if seat is layer:
                continue
            _put(module, str(node.target), seat)
            layer = seat
        if isinstance(layer, Conv | Norm | Dense | Dropout):
            node.args = (*node.args, at)


def _mark_head(module: nn.Module, graph: fx.Graph, stack: Stack) -> None:
    """Mark the Dense layers behind which no other seat lies: their outputs are the classes, which no width cuts.

    ValueError where a convolution is the last, for a composition with widths.
    """
    ahead = [node for node in graph.nodes if node.op == "output"]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Dense):
            layer.head = True
        if isinstance(layer, Conv) and any(dial.name == "width" for dial in stack.dials()):
            raise ValueError(f"layer {node.target!r}: the logits come from a convolution, which a width would cut")
        if isinstance(layer, Conv | Dense | nn.Conv2d | nn.Linear):
            continue
        before = [one for one in node.all_input_nodes if one not in seen]
        ahead += before
        seen.update(before)


def _put(module: nn.Module, name: str, seat: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, seat)
