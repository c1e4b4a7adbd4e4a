"""Make a user's module tunable: its layers become seats and its weights are kept.

The module's forward is traced (torch.fx), and the graph passes the operating point along as an argument. No module
state changes, so an adopted network is as thread-safe as a built-in one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rheostat.methods import Exits, Method, Stack, compose
from rheostat.models.architecture import digest_of_lines, lines_of
from rheostat.models.factories import Factory, made, module_name
from rheostat.models.graph_seats import last_layers, thread
from rheostat.models.refusals import refuse
from rheostat.models.splitting import split
from rheostat.models.tracing import trace
from rheostat.models.tunable import Tunable
from rheostat.nets.adopted import Adopted
from rheostat.nets.base import check_image, normaliser
from rheostat.nn.layers import Conv
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.plain import plain

SAME = 1e-5
"""Maximum difference between the outputs of the network over seats and the module's, relative to the largest output."""


def adopt(
    module: nn.Module | Factory | str,
    method: Method | str,
    *,
    image: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    exits: Sequence[str] = (),
) -> Tunable:
    """Make a tunable model from a module that maps images (B, C, H, W) to logits, with the module's weights.

    `module` is the module, a function without arguments that makes it, or a timm name with plain arguments
    ("timm:resnet18(num_classes=10)"). `method` is a composition, or the name of one ("oat").
    Convolutions, batch, layer and group norms, linear layers and Dropout become seats. The module itself does not
    change, and at rest the forward is unchanged. Compositions with masks (floats, smart) are an exception: they keep
    only the largest weights of each layer, a share of `density`, and the others are 0 until training regrows them.
    `mean` and `std` normalise pixels in [0, 1] before the module; without them the module gets the pixels unchanged.
    `exits` names the layers that exits follow, for a composition with exits; by default exits follow the last layer of
    each resolution, except the stem's and the final one. ValueError names layers that cannot be adopted, or says why
    the forward cannot be traced. The model is on the device of the module.
    """
    found = compose(method) if isinstance(method, str) else method
    stack = found if isinstance(found, Stack) else Stack(found)
    net = adopted(module, image=image, mean=mean, std=std, exits=exits)
    part = stack.part(Exits)
    if part is not None and not part.positions and not net.exit_positions and net.exit_layers:
        raise ValueError(f"name the layers that exits follow (exits=...); allowed: {', '.join(net.exit_layers)}")
    if exits and part is None:
        raise ValueError(f"exits names {exits[0]!r}, but the composition {stack!r} has no exits; add Exits()")
    return installed(net, stack)


def adopted(
    module: nn.Module | Factory | str,
    *,
    image: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    exits: Sequence[str] = (),
) -> Adopted:
    """A user's module as a network over seats on the CPU, before any method is installed; see `adopt`.

    Methods make their tensors on the CPU, so a model moves to `net.home`, the module's device, once it is whole.
    """
    module, factory = made(module)
    name = type(module).__name__
    shape = check_image(name, plain(image), 1)
    mean, std = plain(mean), plain(std)
    refuse(module)
    own, graph, traced = trace(module, shape)
    names = thread(own, traced)
    lines = (*lines_of(own, graph),)
    pieces = split(own, traced, exits)
    blank = (0.0,) * shape[0], (1.0,) * shape[0]
    normalise = normaliser(shape[0], blank[0] if mean is None else mean, blank[1] if std is None else std)
    logits = traced.logits()
    if logits.ndim != 2:
        raise ValueError(f"{name} returned shape {tuple(logits.shape)}, expected (B, classes)")
    spec: dict[str, object] = {"of": module_name(module), "architecture": digest_of_lines(lines), "image": shape}
    spec |= {"mean": mean, "std": std}
    net = Adopted(
        pieces.blocks,
        pieces.rest,
        image=shape,
        classes=logits.shape[1],
        normalise=normalise,
        architecture=lines,
        factory=factory,
        spec={**spec, "exits": tuple(exits)},
    )
    net.own_names = names
    net.exit_positions, net.exit_layers = pieces.exit_positions, pieces.exit_layers
    net.conv_heads = tuple(k for k, last in last_layers(own, graph).items() if isinstance(last, Conv))
    net.home = device_of(module)
    net.eval()
    check_same(net, traced.examples[1], logits)
    return net


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's weights; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def installed(net: Adopted, stack: Stack) -> Tunable:
    """Install a method on an adopted network, and move the model to the device that the user's module is on.

    ValueError in one sentence if the method does not fit the network's forward.
    """
    widths = [dial for dial in stack.dials() if dial.name == "width"]
    if widths and net.conv_heads:
        raise ValueError(
            f"layer {net.conv_heads[0]!r}: the logits come from a convolution, whose classes a width would cut; "
            "widths need a network that ends in a Linear layer"
        )
    model = Tunable(net, stack)
    x = torch.full((2, *net.image), 0.5)
    for dial in widths:
        for value in dial.values or ():
            try:
                with torch.no_grad():
                    model(x, Point(width=value))
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"widths do not fit {net.spec['of']}: at width {value:g}, the narrower features reach a "
                    f"layer or a tensor of fixed size ({' '.join(str(error).split())}); widths need networks of "
                    "only convolutions, norms and linear layers, such as ResNets"
                ) from None
    return model.to(net.home)


def check_same(net: Adopted, x: Tensor, expected: Tensor) -> None:
    """ValueError unless the network maps its first layer's input x (B, C, H, W) to the module's logits (B, K)."""
    with torch.no_grad():
        found = net(x * net.normalise.std + net.normalise.mean, Resolved())
    gap = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    if not gap <= SAME:
        raise ValueError(
            f"{net.spec['of']} over seats gives other logits than the module (off by {gap:.2g} of the largest); "
            "its forward does something that tracing cannot record"
        )
