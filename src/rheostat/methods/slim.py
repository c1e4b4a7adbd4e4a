"""Slimmable width: one network whose leading channels are smaller networks.

Also called switchable width. It is not pruning: the remaining channels are fixed, and each width is trained.
Sources: Slimmable networks (Yu et al., ICLR 2019); OATS (Wang et al., NeurIPS 2020, §3.3); a head per
width: SOLAR (WACV 2026).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from rheostat.methods.base import Method, Term
from rheostat.methods.composition import register
from rheostat.nets.base import Net
from rheostat.nn.layers import Conv, Dense, Parts, Seat, Transform, append, seats
from rheostat.nn.norms import AffineSet, Norm, Source
from rheostat.points.dial import Dial
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

HEADS = ("shared", "per-width")


def sliced(channels: int, width: float) -> int:
    """The number of leading channels that a width keeps, at least one."""
    return max(1, round(channels * width))


class Slice(Transform):
    """Slices a kernel to its leading channels: all that come in, and the width's share of those that go out."""

    order = 30

    def forward(self, parts: Parts, seat: Seat, x: Tensor, at: Resolved) -> Parts:
        width = at.width
        if width == 1.0 and not isinstance(seat, Dense):
            return parts
        head = isinstance(seat, Dense) and seat.head
        out = parts[0][0].shape[0] if head else sliced(parts[0][0].shape[0], width)
        inside = x.shape[-1 if isinstance(seat, Dense) else 1]
        return tuple((w[:out, : min(w.shape[1], inside)], amount) for w, amount in parts)


class WidthBank(Source):
    """One source of statistics per width; the last belongs to the full network."""

    def __init__(self, sources: list[Source], widths: tuple[float, ...]) -> None:
        super().__init__()
        self.sources = nn.ModuleList(sources)
        self.widths = widths

    def chosen(self, at: Resolved) -> Source:
        """The source of this pass's width."""
        source = self.sources[self.widths.index(at.width)]
        assert isinstance(source, Source)
        return source

    def pick(self, at: Resolved) -> AffineSet:
        return self.chosen(at).pick(at)

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        return self.chosen(at).table(at)


class HeadBank(nn.Module):
    """One classifier layer per width."""

    def __init__(self, heads: list[Dense], widths: tuple[float, ...]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.widths = widths

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        out: Tensor = self.heads[self.widths.index(at.width)](x, at)
        return out


@register
@dataclass(frozen=True)
class Slim(Method):
    """Declares the structural dial `width`; every step trains all widths with equal weight.

    `heads` is "shared" (as in the paper) or "per-width", one classifier layer per width.
    """

    widths: tuple[float, ...] = (0.5, 0.75, 1.0)
    heads: str = "shared"

    seam = 20
    claims = "width"
    multiplies = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        ascending = list(self.widths) == sorted(set(self.widths))
        if not self.widths or not ascending or self.widths[0] <= 0 or self.widths[-1] != 1.0:
            raise ValueError(f"slim: widths must rise from above 0 to 1, as (0.5, 0.75, 1.0); given {self.widths}")
        check_choice("slim", "heads", self.heads, HEADS)

    def dials(self) -> tuple[Dial, ...]:
        return (Dial(name="width", rest=1.0, values=self.widths, spends=True, structural=True),)

    def install(self, net: Net) -> None:
        for conv in seats(net, Conv):
            append(conv, Slice())
        for dense in seats(net, Dense):
            append(dense, Slice())
        for norm in seats(net, Norm):
            full = norm.source
            smaller = [full.resized(sliced(norm.channels, w)) for w in self.widths[:-1]]
            norm.source = WidthBank([*smaller, full], self.widths)
        if self.heads == "per-width":
            for parent in list(net.modules()):
                for name, layer in list(parent.named_children()):
                    if isinstance(layer, Dense) and layer.head:
                        setattr(parent, name, self._bank(layer))

    def _bank(self, full: Dense) -> HeadBank:
        heads = []
        for width in self.widths[:-1]:
            head = Dense(sliced(full.in_features, width), full.out_features, head=True)
            append(head, Slice())
            heads.append(head)
        return HeadBank([*heads, full], self.widths)

    def extend(self, terms: list[Term]) -> list[Term]:
        """Every term at every width: the loss is the mean over widths, and each width is attacked separately."""
        share = 1 / len(self.widths)
        return [
            replace(term, at=term.at.replace(width=width), weight=term.weight * share)
            for width in self.widths
            for term in terms
        ]
