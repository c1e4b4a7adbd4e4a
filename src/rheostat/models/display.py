"""Show a model in a notebook and in a terminal: network, dials, named points and their costs."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from rheostat.models.costs import observe
from rheostat.points.dial import Dial
from rheostat.runtime.markup import table

if TYPE_CHECKING:
    from rheostat.models.tunable import Tunable


def line(model: Tunable) -> str:
    """One line: the network, the composition, the dials."""
    dials = ", ".join(f"{dial.name} {positions(dial)}" for dial in model.dials.values()) or "no dials"
    return f"Tunable({network(model)}, {model.method!r}, dials: {dials})"


def network(model: Tunable) -> str:
    """The network's name, image shape, number of classes and number of parameters."""
    net = model.net
    spec = getattr(net, "spec", {})
    name = spec.get("of") or spec.get("name") or type(net).__name__
    count = sum(p.numel() for p in model.parameters())
    return f"{name}, {' × '.join(map(str, net.image))} → {net.classes} classes, {count:,} parameters"


def positions(dial: Dial) -> str:
    """The positions of a dial: its values, or its ends."""
    return ", ".join(f"{v:g}" for v in dial.values) if dial.values else f"{dial.low:g} … {dial.high:g}"


def html(model: Tunable) -> str:
    """Two small tables: the dials, and the points with the multiply-accumulates of one image at each.

    The points are the rest point and the named points. A point with live exits has no single cost, because it depends
    on the image.
    """
    scale = "t, calibrated" if model.dial_map is not None else "training λ"
    dials = [
        [d.name, positions(d), f"{d.rest:g}", scale if d.name == "robustness" else ""] for d in model.dials.values()
    ]
    points = {"at rest": model.complete(None), **model.points}
    costs = []
    for name, point in points.items():
        live = model.method.live(point)
        macs = "the image decides" if live else f"{observe(model, model.net.image, point).macs / 1e6:.2f} M"
        costs.append([name, point.label(), macs])
    return (
        f"<div><p><b>Tunable</b>: {escape(network(model))}<br><code>{escape(repr(model.method))}</code></p>"
        f"{table(['dial', 'positions', 'rest', 'scale'], dials) if dials else ''}"
        f"{table(['point', 'dials', 'MACs'], costs)}</div>"
    )
