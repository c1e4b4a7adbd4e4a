"""The cost of a point, observed on the operators that run, never declared by a method."""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rheostat.methods.exits import ExitCommand, Exits, depth_of
from rheostat.models.tunable import AtPoint, Tunable
from rheostat.nn.layers import Conv, Dense, kernel
from rheostat.points.point import Point
from rheostat.runtime.seeding import preserved, stream

Name = TypeVar("Name", bound=Hashable)
Shared = TypeVar("Shared", bound=nn.Module)


@dataclass(frozen=True)
class Cost:
    """Cost of one image at a point; if it has live exits, of an image that takes no early exit, the most it can cost.

    `macs` counts convolutions and matrix products as dense kernels run them: zero weights reduce neither `macs` nor
    the time. `macs_nonzero` excludes products with a zero weight; `convolution_macs` is the part of `macs` in
    convolutions. `convolution_nonzeros` counts the convolution weights that this point's path uses; `nonzeros` counts
    the nonzero weights stored for all paths, out of `params` in total.
    """

    params: int
    nonzeros: int
    bytes: int
    macs: int
    convolution_macs: int
    convolution_nonzeros: int
    macs_nonzero: int


def observe(model: nn.Module, image: tuple[int, int, int], point: Point | None = None) -> Cost:
    """The cost of one image (C, H, W) through a module, at a point if it is a Tunable; `model.at(point)` has its own.

    The cost of a point with live exits depends on where an image leaves. What is counted is an image that no exit
    takes, which passes all layers and all heads; `exit_costs` counts every exit.

    The model is afterwards as it was, whatever its mode. If it has seats, a copy of its modules with the same weights
    is observed, and the model may predict in other threads meanwhile. A module without seats may hold what cannot be
    copied, such as a lock; it is observed itself, and must not be called meanwhile.
    """
    if type(model) is AtPoint:
        point, model = model.point, model.model
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _watched(model) as watched, _counting(device) as counter, _Used(watched) as used:
        x = torch.zeros(1, *image, device=device)
        if isinstance(watched, Tunable):
            at = watched.resolve(point, x)
            watched.read(x, at.with_(ExitCommand(leave=depth_of(at) - 1)) if live_exits(watched, point) else at)
        else:
            watched(x)
    by_operator = counter.get_flop_counts().get("Global", {})
    convolutions = sum(v for k, v in by_operator.items() if "convolution" in str(k))
    parameters = list(model.parameters())
    stored = model.stored() if isinstance(model, Tunable) else model.state_dict()
    return Cost(
        params=sum(p.numel() for p in parameters),
        nonzeros=sum(int(p.count_nonzero()) for p in parameters),
        bytes=sum(t.numel() * t.element_size() for t in stored.values()),
        macs=sum(by_operator.values()) // 2,
        convolution_macs=convolutions // 2,
        convolution_nonzeros=used.convolution_nonzeros(),
        macs_nonzero=sum(by_operator.values()) // 2 - used.saved,
    )


@contextmanager
def _counting(device: torch.device) -> Iterator[FlopCounterMode]:
    """A counter of this thread's operators; it enables gradients, without which it fails on slimmed weights."""
    with preserved(device), torch.inference_mode(False), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        yield counter


def live_exits(model: Tunable, point: Point | None) -> int:
    """The number of exits at which an image may leave at a point, the network's end included; 0 if none is live."""
    point = model.complete(point)
    has = model.method.live(point) and model.method.part(Exits) is not None
    return int(point["depth"]) if has else 0


@contextmanager
def _watched(model: nn.Module) -> Iterator[nn.Module]:
    """What is observed for a module, in eval mode: a copy if it has seats, else the module, which is then restored."""
    if any(isinstance(m, Conv | Dense) for m in model.modules()):
        yield sharing(model)
        return
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def sharing(model: Shared) -> Shared:
    """A copy of a module in eval mode, with the same weights and its own buffers, which a pass may change."""
    computed = (v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor))
    shared = {id(t): t for t in (*model.parameters(), *computed)}
    with torch.inference_mode(False):  # so that gradients may be enabled over the copied buffers
        return copy.deepcopy(model, shared).eval()


@dataclass(frozen=True)
class ExitCosts:
    """MACs of one image by the exit it leaves at (0-based, the network's end last).

    `macs` counts everything that ran, including the heads of earlier exits. `alone` counts only the exit's own head,
    as the RDI-Nets paper does; its last entry is the static network. `convolutions` and `convolutions_alone` are the
    parts of these in convolutions.
    """

    macs: tuple[int, ...]
    alone: tuple[int, ...]
    convolutions: tuple[int, ...]
    convolutions_alone: tuple[int, ...]


def exit_costs(model: Tunable, point: Point | None = None) -> ExitCosts:
    """The observed cost of every exit of a multi-exit model at a point, whatever its dial `exit`."""
    if "exit" not in model.dials:
        raise ValueError("this model has no exits")
    point = model.complete(point)
    count = int(point.numbers()["depth"])
    device = next(model.parameters()).device

    def counted(point: Point, command: ExitCommand | None = None) -> tuple[int, int]:
        with _counting(device) as counter:
            x = torch.zeros(1, *model.net.image, device=device)
            at = model.resolve(point, x)
            at = at if command is None else at.with_(command)
            model.read(x, at)
        found = counter.get_flop_counts().get("Global", {})
        part = sum(v for k, v in found.items() if "convolution" in str(k))
        return sum(found.values()) // 2, part // 2

    run = [counted(point, ExitCommand(leave=k)) for k in range(count)]
    alone = [counted(point.replace(exit=0.0, depth=k + 1.0)) for k in range(count)]
    return ExitCosts(
        tuple(m for m, _ in run), tuple(m for m, _ in alone), tuple(c for _, c in run), tuple(c for _, c in alone)
    )


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass of a batch: median, quartiles and 99th percentile over n passes."""

    batch: int
    median: float
    low: float
    high: float
    p99: float
    n: int
    threads: int


def latency(
    models: Mapping[Name, nn.Module], image: tuple[int, int, int], *, batch: int = 1, seconds: float = 2.0
) -> dict[Name, Latency]:
    """Latency of modules (images → logits). They are measured in turn, so that their ratios are comparable.

    Every module runs for about `seconds`, at least 10 passes, after three warm-up passes. All passes are of the same
    noise, so a module with live exits is timed by `deploy.leaving.mean_latency` instead.
    """
    if batch < 1 or seconds <= 0:
        raise ValueError(f"latency needs a batch of at least 1 and seconds above 0, given batch {batch}")
    first = next(iter(models.values()))
    device = next((p.device for p in first.parameters()), torch.device("cpu"))
    x = torch.rand(batch, *image, generator=stream("latency")).to(device)
    times: dict[Name, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for model in models.values():
            for _ in range(3):
                model(x)
        spent = 0.0
        order = list(models.items())
        while spent < seconds * len(models) or len(times[next(iter(models))]) < 10:
            # Alternate the order, so that no module always follows the same other one.
            order.reverse()
            for name, model in order:
                times[name].append(_timed(model, x))
                spent += times[name][-1]
    return {name: _summary(batch, found) for name, found in times.items()}


def _timed(model: nn.Module, x: Tensor) -> float:
    started = time.perf_counter()
    model(x)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def _summary(batch: int, found: list[float]) -> Latency:
    cuts = torch.tensor(found, dtype=torch.float64).mul(1000)
    low, median, high, p99 = cuts.quantile(torch.tensor([0.25, 0.5, 0.75, 0.99], dtype=torch.float64)).tolist()
    return Latency(batch, median, low, high, p99, len(found), torch.get_num_threads())


class _Used:
    """Observes the seats of a model during a pass: the weights used, and the products that zeros would save."""

    def __init__(self, model: nn.Module) -> None:
        self.seats = [m for m in model.modules() if isinstance(m, Conv | Dense)]
        self.weights: dict[int, Tensor] = {}
        self.saved = 0

    def __enter__(self) -> _Used:
        self.handles = [seat.register_forward_hook(self._note) for seat in self.seats]
        return self

    def __exit__(self, *problem: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _note(self, seat: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        assert isinstance(seat, Conv | Dense)
        x, at, *_ = inputs
        for weight, _ in kernel(seat, x, at):
            used = weight.detach() != 0
            positions = out.numel() // out.shape[1 if isinstance(seat, Conv) else -1]
            self.saved += int((~used).sum()) * positions
            if isinstance(seat, Conv):
                before = self.weights.get(id(seat))
                self.weights[id(seat)] = used if before is None else used | before

    def convolution_nonzeros(self) -> int:
        """Number of convolution weights that any pass of the point used."""
        return sum(int(w.sum()) for w in self.weights.values())
