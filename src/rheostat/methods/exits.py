"""Exits on intermediate features: an input leaves at the first exit that is confident enough.

Also called early exit, input-adaptive or dynamic inference. It is not an ensemble: only the exit taken makes a
prediction. Source: RDI-Nets (Hu et al., ICLR 2020). The cost of leaving at exit k includes the heads of exits 1..k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from rheostat.attacks import Candidates, Objective
from rheostat.attacks import multi_exit as forms
from rheostat.attacks.objective import Loss
from rheostat.methods.base import Attacked, Form, Method, Output, Read, Term
from rheostat.methods.compaction import compacted, rounded
from rheostat.methods.composition import register
from rheostat.nets.base import Net
from rheostat.nets.heads import HEADS, default_positions, exits_of
from rheostat.points.dial import Dial
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

DEFENCES = ("none", "main", "average", "max-average", "routed")


@dataclass(frozen=True)
class ExitCommand:
    """Overrides the exit policy of a pass.

    Every exit within the depth returns logits (`Output.exits`). With `leave`, all rows leave by that exit (0-based)
    and the heads before it run too, so that costs can be observed. With `stage`, the input is what left the exit before
    that one (the images at 0), and the pass goes to that exit: `Output.features` and its logits.
    """

    leave: int | None = None
    stage: int | None = None


@register
@dataclass(frozen=True)
class Exits(Method):
    """Declares the dials `exit` and `depth`, both structural.

    `exit` scales the fitted thresholds: at 0 every row takes the last exit, at 1 the fitted policy applies. `depth`
    is the number of the last usable exit (1..K side exits, K+1 the network's end): with `exit` 0 it gives a static,
    smaller network; otherwise it bounds the cost of a row. `positions` are the blocks that exits follow (0-based; by
    default the paper's rule for the network). `heads` is "paper" or "light". `measure` is the measure of uncertainty:
    "entropy", "max-probability" or "margin". `defence` is the objective that training attacks: "none", "main" (the
    last exit), "average", "max-average" or "routed".
    """

    positions: tuple[int, ...] = ()
    heads: str = "light"
    measure: str = "entropy"
    defence: str = "max-average"

    seam = 5
    claims = "exits"
    multiplies = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", tuple(sorted(set(self.positions))))
        for what, given, allowed in (
            ("heads", self.heads, HEADS),
            ("measure", self.measure, forms.MEASURES),
            ("defence", self.defence, DEFENCES),
        ):
            check_choice("exits", what, given, allowed)

    def bound(self, net: Net) -> Exits:
        return replace(self, positions=self.positions or default_positions(net))

    def dials(self) -> tuple[Dial, ...]:
        ends = tuple(float(k + 1) for k in range(len(self.positions) + 1))
        return (
            Dial(name="exit", rest=0.0, structural=True, saves=True),
            Dial(name="depth", rest=ends[-1], values=ends, spends=True, structural=True),
        )

    def install(self, net: Net) -> None:
        heads = exits_of(net, self.positions, self.heads)
        net.add_module("exits", nn.ModuleList(heads))
        net.register_buffer("thresholds", torch.full((len(heads),), float("nan")))

    def read(self, net: Net, x: Tensor, at: Resolved, then: Read) -> Output:
        depth = depth_of(at)
        command = at.get(ExitCommand)
        if command is not None and command.leave is not None:
            return Output(next(out for k, out in self.progressive(net, x, at, depth) if k == command.leave))
        if command is not None and command.stage is not None:
            features, logits = self._stage(net, x, at, command.stage)
            return Output(logits, features=features)
        if at.training or command is not None:
            found = tuple(logits for _, logits in self.progressive(net, x, at, depth))
            return Output(found[-1], found)
        if at.settings["exit"] == 0.0:
            return Output(self._static(net, x, at, depth))
        return self._early(net, x, at, depth)

    def progressive(self, net: Net, x: Tensor, at: Resolved, depth: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits) of exits 0, 1, ... up to the depth (by default the point's); later layers run
        only when asked for."""
        for number in range(depth_of(at) if depth is None else depth):
            x, logits = self._stage(net, x, at, number)
            yield number, logits

    def _static(self, net: Net, x: Tensor, at: Resolved, depth: int) -> Tensor:
        """The logits of the exit at `depth`; no other head runs."""
        last = self._ends(net)[depth - 1]
        for block, features in enumerate(net.features(x, at)):
            x = features
            if block == last:
                break
        return self._logits(net, x, at, depth - 1)

    def _early(self, net: Net, x: Tensor, at: Resolved, depth: int) -> Output:
        def run(number: int, features: Tensor) -> tuple[Tensor, Tensor]:
            return self._stage(net, features, at, number)

        def narrowed(kept: Tensor) -> None:
            nonlocal at
            at = at.only(kept)

        thresholds = policy(net, depth) * at.settings["exit"]
        stages = [partial(run, number) for number in range(depth)]
        return leave_early(x, stages, thresholds, self.measure, narrowed=narrowed)

    def _stage(self, net: Net, x: Tensor, at: Resolved, number: int) -> tuple[Tensor, Tensor]:
        """The pass from one exit to the next: (features, logits (B, K))."""
        ends = self._ends(net)
        if number == 0:
            x = net.enter(x)
        for block in range(ends[number - 1] + 1 if number else 0, ends[number] + 1):
            x = net.blocks[block](x, at)
        return x, self._logits(net, x, at, number)

    def _ends(self, net: Net) -> tuple[int, ...]:
        """The block that each exit follows (0-based), the network's end last."""
        return (*self.positions, len(net.blocks) - 1)

    def _logits(self, net: Net, x: Tensor, at: Resolved, number: int) -> Tensor:
        """The logits (B, K) of an exit (0-based) on its features."""
        logits: Tensor = net.classifier(x, at) if number == len(self.positions) else side_exits(net)[number](x, at)
        return logits.float()

    def extend(self, terms: list[Term]) -> list[Term]:
        """The terms of another method's plan, attacked by the objective of the defence."""
        form = self._form()
        if form is None:
            return [replace(t, images="clean") for t in terms]
        return [replace(t, objective=form) if t.images == "adversarial" else t for t in terms]

    def extend_default(self, terms: list[Term]) -> list[Term]:
        """All rows clean and all rows attacked, half the loss each."""
        form = self._form()
        if form is None:
            return terms
        halves = [replace(t, weight=t.weight * 0.5) for t in terms]
        return [t for half in halves for t in (half, replace(half, images="adversarial", objective=form))]

    def _form(self) -> str | None:
        names = {"none": None, "main": f"exit-{len(self.positions) + 1}"}
        return names.get(self.defence, self.defence)

    def undivided(self) -> str:
        if self.defence != "routed":
            return ""
        return "exits: defence 'routed' takes its thresholds from the whole batch, which ranks do not share"

    def forms(self, net: Net) -> dict[str, Form]:
        """exit-1 to exit-K+1 (each runs only the layers that it needs), average, max-average, routed, slowdown."""
        measure = self.measure

        def single(number: int) -> Callable[[Attacked], Objective]:
            def make(a: Attacked) -> Objective:
                found = a.objective(lambda o: o.logits, at=a.at.turned(exit=0.0, depth=float(number)))
                live = a.at.settings["exit"] != 0.0
                return replace(found, decisive=not live and number == depth_of(a.at))

            return make

        def stacked(loss: Loss, a: Attacked) -> Objective:
            found = a.objective(lambda o: torch.stack(o.exits, 1), at=a.at.with_(ExitCommand()))
            decide = forms.decision(self._thresholds(net, a.at), measure)
            return replace(found, loss=loss, decide=decide)

        def max_average(a: Attacked) -> Candidates:
            depth = depth_of(a.at)
            score = stacked(forms.over_exits(a.loss), a)
            return Candidates(tuple(single(k + 1)(a) for k in range(depth)), score)

        found: dict[str, Form] = {f"exit-{k + 1}": single(k + 1) for k in range(len(self.positions) + 1)}
        return found | {
            "average": lambda a: stacked(forms.over_exits(a.loss), a),
            "max-average": max_average,
            "routed": lambda a: stacked(forms.routed(self._thresholds(net, a.at), measure, a.loss), a),
            "slowdown": lambda a: replace(
                stacked(forms.slowdown(self._thresholds(net, a.at), measure), a), decisive=False
            ),
        }

    def _thresholds(self, net: Net, at: Resolved) -> Tensor:
        """Thresholds of the side exits within the depth, scaled for this point; NaN if not fitted."""
        found = net.get_buffer("thresholds")[: depth_of(at) - 1]
        return found if at.phase is Phase.ATTACK else found.nan_to_num(0.0) * at.settings["exit"]

    def live(self, point: Point) -> bool:
        return bool(point.get("exit", 0.0) != 0.0)


def leave_early(
    x: Tensor,
    stages: Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]],
    thresholds: Tensor,
    measure: str,
    *,
    narrowed: Callable[[Tensor], None] = lambda kept: None,
) -> Output:
    """Rows leave by the first exit whose uncertainty is below its threshold; the batch is compacted after each exit.

    Every stage is features → (features, logits (n, K)); all rows leave at the last. `narrowed` is told the rows that
    continue, as indices of the rows before. The size is rounded up, and rows that have left fill the gap: operators
    are prepared anew for each batch size, which on a CPU takes longer than running the extra rows.
    """
    place = torch.arange(len(x), device=x.device)
    live = torch.ones_like(place, dtype=torch.bool)
    left = len(x)
    logits: list[Tensor] = []
    rows: list[Tensor] = []
    ends: list[Tensor] = []
    for number, stage in enumerate(stages):
        x, found = stage(x)
        leaves = live
        if number < len(stages) - 1:
            leaves = live & (forms.uncertainty(found.detach(), measure) < thresholds[number])
        count = int(leaves.sum())
        if not count and number < len(stages) - 1:
            continue
        logits.append(found[leaves])
        rows.append(place[leaves])
        ends.append(torch.full_like(rows[-1], number))
        left -= count
        if not left:
            break
        live = live ^ leaves
        size = rounded(left)
        if size < len(place):
            x, kept = compacted(x, live, size)
            place, live = place[kept], live[kept]
            narrowed(kept)
    order = torch.cat(rows).argsort()
    return Output(torch.cat(logits)[order], taken=torch.cat(ends)[order])


def side_exits(net: Net) -> nn.ModuleList:
    """The heads of the side exits, in network order."""
    heads = net.get_submodule("exits")
    assert isinstance(heads, nn.ModuleList)
    return heads


def depth_of(at: Resolved) -> int:
    """The number of the last exit in this pass, counted from 1."""
    return int(at.settings["depth"])


def policy(net: Net, depth: int) -> Tensor:
    """The fitted thresholds of the side exits before the exit at `depth`; ValueError if they are not fitted."""
    found = net.get_buffer("thresholds")[: depth - 1]
    if bool(found.isnan().any()):
        raise ValueError(
            "the exit policy is not fitted yet: call fit_policy(model, calibrate_fit), or leave the dial exit at 0"
        )
    return found
