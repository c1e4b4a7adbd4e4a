"""A user's own module made tunable: its layers become seats, its weights are kept.

The module's forward is traced (torch.fx) and the operating point threaded through the graph as an
argument; nothing is poked, so an adopted network is as safe between threads as one of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rheostat.methods import Exits, Method, Stack, compose
from rheostat.models.architecture import digest_of_lines, lines_of
from rheostat.models.factories import Factory, made, module_name
from rheostat.models.graph_seats import last_layers, refuse, thread
from rheostat.models.splitting import split
from rheostat.models.tracing import trace
from rheostat.models.tunable import Tunable
from rheostat.nets.adopted import Adopted
from rheostat.nets.base import check_image, normaliser
from rheostat.nn.layers import Conv
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved

SAME = 1e-5
"""How far the outputs of a network over seats may be from the module's, as a share of the largest."""


def adopt(
    module: nn.Module | Factory | str,
    method: Method | str,
    *,
    image: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    exits: Sequence[str] = (),
) -> Tunable:
    """A tunable model with the weights of a module that maps images (B, C, H, W) to logits.

    `module` is the module, a function without arguments that makes it, or a timm name with plain arguments
    ("timm:resnet18(num_classes=10)"). `method` is a composition, or the name of one ("oat").
    Convolutions, batch, layer and group norms, linear layers and Dropout become seats; the module itself is not
    touched, and at rest the forward is unchanged. Not so with masks (floats, smart): of each layer they keep the share
    `density` of the weights, the largest ones, and the others are 0 until training grows them again. `mean` and `std`
    normalise pixels of [0, 1] before it; without them the module gets pixels as they are. `exits` names the layers
    that exits follow, for a composition that has them; by default they follow the last layer of each resolution but a
    stem's and the last. ValueError names the layers that cannot be taken, or why the forward cannot be traced.
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
    """A user's module as a network over seats, before any method is installed; see `adopt`."""
    module, factory = made(module)
    name = type(module).__name__
    shape = check_image(name, image, 1)
    refuse(module)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    own, graph, traced = trace(module, shape)
    thread(own, traced)
    lines = (*lines_of(own, graph),)
    pieces = split(own, traced, exits)
    blank = (0.0,) * shape[0], (1.0,) * shape[0]
    normalise = normaliser(shape[0], tuple(mean or blank[0]), tuple(std or blank[1]))
    logits = traced.logits()
    if logits.ndim != 2:
        raise ValueError(f"{name} returned shape {tuple(logits.shape)}, expected (B, classes)")
    spec: dict[str, object] = {"of": module_name(module), "architecture": digest_of_lines(lines), "image": shape}
    spec |= {"mean": None if mean is None else tuple(mean), "std": None if std is None else tuple(std)}
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
    net.exit_positions, net.exit_layers = pieces.exit_positions, pieces.exit_layers
    net.conv_heads = tuple(k for k, last in last_layers(own, graph).items() if isinstance(last, Conv))
    net.eval()
    check_same(net, traced.examples[1], logits)
    return net.to(device)


def installed(net: Adopted, stack: Stack) -> Tunable:
    """A method on an adopted network; ValueError in one sentence where it does not fit the network's forward."""
    widths = [dial for dial in stack.dials() if dial.name == "width"]
    if widths and net.conv_heads:
        raise ValueError(
            f"layer {net.conv_heads[0]!r}: the logits come from a convolution, which a width would cut; "
            "a network that ends in a Linear layer has widths"
        )
    model = Tunable(net, stack)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    x = torch.full((2, *net.image), 0.5, device=device)
    for dial in widths:
        for value in dial.values or ():
            try:
                with torch.no_grad():
                    model(x, Point(width=value))
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"widths do not fit {net.spec['of']}: at width {value:g}, features that are narrower meet a "
                    f"layer or a tensor of fixed size ({' '.join(str(error).split())}); networks of convolutions, "
                    "norms and linear layers alone have widths, such as ResNets"
                ) from None
    return model


def check_same(net: Adopted, x: Tensor, expected: Tensor) -> None:
    """ValueError unless the network gives the module's logits (B, K) for what its first layer saw, x (B, C, H, W)."""
    with torch.no_grad():
        found = net(x * net.normalise.std + net.normalise.mean, Resolved())
    gap = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    if not gap <= SAME:
        raise ValueError(
            f"{net.spec['of']} over seats gives other logits than the module (off by {gap:.2g} of the largest); "
            "its forward does what tracing cannot see"
        )
