"""Tunable: a network and a method, called with the operating point as an argument."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rheostat.attacks import Candidates, Objective, loss_named
from rheostat.methods.base import Attacked, Method, Output, Stack
from rheostat.methods.dual import Dual
from rheostat.models.inputs import check_images
from rheostat.nets.base import Net
from rheostat.points.dial import Dial
from rheostat.points.dial_map import DialMap
from rheostat.points.phase import Phase
from rheostat.points.point import Point, Value
from rheostat.points.resolved import Level, Resolved
from rheostat.points.settings import distinct
from rheostat.runtime.choices import nearest

if TYPE_CHECKING:
    from rheostat.models.artifact import About
    from rheostat.models.hashing import Origin


class Tunable(nn.Module):
    """One network whose trade-off is set at inference: `model(x, Point(robustness=0.3))`.

    The constructor installs the method; ValueError if the network already has one. The argument `phase`, never module
    state, says whether a pass trains; a call without it is an evaluation. Once `dial_map` is fitted, `robustness` is
    the dial's position instead of the training λ. `points` holds named operating points. `about` holds what `save`
    writes beside the weights: class names, preprocessing, threat, what was measured at named points and, after
    training, the provenance of the weights. `origin` is what a loaded model was when it was loaded.
    """

    def __init__(self, net: Net, method: Method) -> None:
        super().__init__()
        stack = (method if isinstance(method, Stack) else Stack(method)).bound(net)
        if net.conditioned_by:
            raise ValueError(
                f"this network is already conditioned by {net.conditioned_by}; build a new one for each model"
            )
        net.conditioned_by = repr(stack)
        before = list(net.state_dict())
        try:
            stack.install(net)
        except ValueError:
            if list(net.state_dict()) == before:  # refused before anything was installed
                net.conditioned_by = ""
            raise
        self.net = net
        self.method = stack
        self.dial_map: DialMap | None = None
        self.points: dict[str, Point] = {}
        self.temperatures: dict[str, float] = {}
        self.about: About | None = None
        self.origin: Origin | None = None
        self._asked_to_train = False

    def train(self, mode: bool = True) -> Tunable:
        """Set PyTorch's mode, which no pass reads: a call is an evaluation, and `rheostat.training_step` trains."""
        self._asked_to_train = mode
        return super().train(mode)

    def stored(self) -> dict[str, Tensor]:
        """The tensors of the model's file: its state without buffers that only training needs."""
        skipped = {
            f"{name}.{buffer}"
            for name, module in self.named_modules()
            for buffer in getattr(module, "training_only", ())
        }
        return {k: v for k, v in self.state_dict().items() if k not in skipped}

    def __repr__(self) -> str:
        from rheostat.models.display import line

        return line(self)

    def _repr_html_(self) -> str:
        from rheostat.models.display import html

        return html(self)

    def save(self, path: str | Path) -> Path:
        """Write the model as one file, which `rheostat.load` reads; returns its path."""
        from rheostat.models.artifact import save

        return save(path, self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Tunable:
        """Called by `to`, `half`, `double`, `cuda` and similar; ValueError for a type other than float32.

        Norm tables, dial maps and thresholds are computed in float32, and evaluations are made in it. Weights of
        another type would mix with them in each layer.
        """
        kind = fn(torch.zeros(1)).dtype
        if kind is not torch.float32:
            raise ValueError(
                f"a model computes in float32, given {str(kind).removeprefix('torch.')}; for speed run it inside "
                "torch.autocast, or export a point"
            )
        plain: Callable[..., nn.Module] = super()._apply
        plain(fn, recurse)
        return self

    def to_layout(self, layout: torch.memory_format) -> Tunable:
        """Choose the memory layout of weights and activations: channels-last or contiguous."""
        self.net.to_layout(layout)
        return self

    @property
    def dials(self) -> dict[str, Dial]:
        """The dials of this model by name."""
        return {dial.name: dial for dial in self.method.dials()}

    def complete(self, point: Point | None) -> Point:
        """The point with every dial set; dials that it does not mention are at rest. ValueError for unknown dials."""
        dials = self.dials
        given = point or Point()
        values: dict[str, Value] = {d.name: d.rest for d in dials.values()}
        for name, value in given.items():
            if name not in dials:
                raise ValueError(f"no dial {name!r}; {nearest(name, dials)}")
            values[name] = dials[name].checked(value)
        return Point(**values)

    def resolve(
        self,
        point: Point | None,
        x: Tensor,
        *,
        phase: Phase = Phase.EVAL,
        generator: torch.Generator | None = None,
        across: bool = False,
        memo: bool = False,
    ) -> Resolved:
        """Resolve the point once per call to what the layers of a pass over x (B, ...) see.

        Distinct per-example settings become a table and an index; under export the table is the whole batch. `memo`
        caches tables between the passes of one attack, without gradients to the weights.
        """
        if not isinstance(phase, Phase):  # a string would silently mean an evaluation
            raise ValueError(f"phase must be one of {', '.join(map(str, Phase))}, given {phase!r}")
        dials, values = self.dials, self.complete(point)
        by_row = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        numbers = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        tables, rows = distinct(by_row, dials, x) if by_row else ({}, None)
        size = next((t.shape[0] for t in tables.values()), 1)
        blend: Tensor | None = None
        if phase is Phase.EVAL and self.dial_map is not None:
            if "robustness" in tables:
                tables["robustness"], blend = self.dial_map(tables["robustness"])
            else:
                numbers["robustness"], share = self.dial_map.number(numbers["robustness"])
                blend = torch.full((size,), share, device=x.device)
        levels = {k: Level(t) for k, t in tables.items()}
        for name, number in numbers.items():
            if not dials[name].structural:
                levels[name] = Level(torch.full((size,), number, device=x.device), number)
        settings = {k: v for k, v in numbers.items() if dials[k].structural}
        derive = partial(self.method.derive, self.net)
        return derive(
            Resolved(settings, levels, rows, blend, phase, generator, across, (), {} if memo else None, derive)
        )

    def read(self, x: Tensor, at: Resolved) -> Output:
        """One pass at a resolved point: logits, and side exits if the method has any."""
        return self.method.read(self.net, x, at, self._plain)

    def _plain(self, x: Tensor, at: Resolved) -> Output:
        return Output(self.net(x, at))

    def forward(self, x: Tensor, at: Point | None = None, *, validate: bool = True) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → logits (B, K) at the point, in eval.

        ValueError for images of another shape, type or range. `validate=False` skips this check, for loops that know
        their images; exported and compiled graphs have no such check.
        """
        if validate and not torch.compiler.is_compiling():
            check_images(x, self.net.image)
            if self._asked_to_train and torch.is_grad_enabled():
                self._warn_of_mode()
        return self.read(x, self.resolve(at, x)).logits

    def _warn_of_mode(self) -> None:
        """After `train()`, warn once that a call does not train norms."""
        self._asked_to_train = False
        warnings.warn(
            "this model is in train mode and was called with gradients, but a call is always an evaluation: its norms "
            "use running statistics and do not update them. Take the loss from rheostat.training_step(model, (images, "
            "labels), attack, step=...), or train with rheostat.fit",
            stacklevel=4,
        )

    def at(self, point: Point | str | None = None, **dials: float) -> AtPoint:
        """This model at one point as a plain module; give dials, a Point or the name of a stored point."""
        temperature = 1.0
        if isinstance(point, str):
            temperature = self.temperatures.get(point, 1.0)
            if point not in self.points:
                raise ValueError(f"no point named {point!r}; {nearest(point, self.points)}")
            point = self.points[point]
        found = self.complete(Point(**{**dict(point or {}), **dials}))
        return AtPoint(self, found, 1.0 if dials else temperature)

    def between(self, rule: str) -> Tunable:
        """A view of the same weights in which `robustness` is the training λ, with one rule between the norm sets.

        Use it to compare with dedicated models ("at-0"); the view has no dial map.
        """
        dual = self.method.part(Dual)
        if dual is None:
            raise ValueError("this model has no dual norm to choose between")
        view = copy.copy(self)
        view.method = self.method.replaced(dual, replace(dual, between=rule))
        view.dial_map = None
        return view

    def objective(
        self,
        labels: Tensor,
        at: Point | None = None,
        *,
        loss: str = "ce",
        form: str = "direct",
        phase: Phase = Phase.EVAL,
        generator: torch.Generator | None = None,
    ) -> Objective | Candidates:
        """The objective that an attack maximises at a point, for labels (B,); tensors in the point have one value each.

        `form` is "direct", the logits of the point, or one of the method's forms (`Method.forms`).
        """
        resolved = self.resolve(at, labels, phase=phase, generator=generator, memo=True)

        attacked = Attacked(self.read, resolved, labels, loss_named(loss))
        if form == "direct":
            return attacked.objective(lambda output: output.logits)
        forms = self.method.forms(self.net)
        if form not in forms:
            raise ValueError(f"no form of attack {form!r}; {nearest(form, ['direct', *forms])}")
        return forms[form](attacked)


class AtPoint(nn.Module):
    """A model at one point: images (B, C, H, W) → logits, deterministic, always in eval.

    AutoAttack, Foolbox, ART and RobustBench accept it unchanged; `train()` has no effect on it.
    """

    def __init__(self, model: Tunable, point: Point, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.point = point
        self.temperature = temperature
        self.validate = True
        self.training = False

    def train(self, mode: bool = True) -> AtPoint:
        """No effect: a point is an evaluation."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.validate and not torch.compiler.is_compiling():
            check_images(x, self.model.net.image)
        # Skip the warning about train(): a call of a point is meant as an evaluation.
        logits: Tensor = self.model(x, self.point, validate=False)
        return logits

    def unchecked(self) -> AtPoint:
        """The same point without the check of its images, for a wrapper that leaves [0, 1] on purpose (by noise)."""
        view = copy.copy(self)
        view.validate = False
        return view

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """(B, K) softmax of logits / temperature; the temperature is that of the named point, else 1."""
        return (self(x) / self.temperature).softmax(1)

    def extra_repr(self) -> str:
        return repr(self.point)
