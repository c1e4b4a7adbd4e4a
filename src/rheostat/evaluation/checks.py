"""Checks that reveal faults of a model or of an attack on it (EVALUATION.md, checks).

Every check returns findings: the name of a flag and the figures that raised it. `flags` explains each flag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from rheostat.attacks import Attack, Objective
from rheostat.attacks.objective import gradient
from rheostat.evaluation.attacked import Victim, attack_chunk, victim_at
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.intervals import exact, paired
from rheostat.runtime.seeding import stream

LEAST_IMAGES = 4
"""A gain of fewer images raises no flag."""
LARGE = 0.5
"""The L∞ radius at which an attack can turn every image grey."""
CURVE = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
"""The radii of the eps curve, as multiples of eps; LARGE follows as the last radius where it is larger."""


@dataclass(frozen=True)
class Finding:
    """A raised flag and the figures that raised it."""

    flag: str
    figures: dict[str, float] = field(default_factory=dict)


def gains(before: Tensor, after: Tensor, flag: str, *, points: float, name: str = "gain") -> list[Finding]:
    """The flag if `after` has fewer correct rows than `before`, (N,) each, else an empty list.

    The difference must exceed `points` percentage points and reach LEAST_IMAGES images; its paired interval must
    exclude 0.
    """
    difference, low, high = paired(before, after)
    if 100 * difference > points and difference * len(before) >= LEAST_IMAGES and low > 0:
        return [Finding(flag, {name: difference, "low": low, "high": high})]
    return []


def of_model(model: nn.Module, point: Point | None, images: Tensor, labels: Tensor) -> list[Finding]:
    """Cheap checks of the model itself, on a few images: randomness, probabilities, mode, gradients."""
    found: list[Finding] = []
    victim = victim_at(model, point)
    if not isinstance(model, Tunable) and any(m.training for m in model.modules() if _has_mode(m)):
        found.append(Finding("train-mode"))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        # The two passes have different streams: only a model with declared noise may give different outputs.
        passes = [_logits(victim, images, labels, number) for number in (0, 1)]
    first, second = passes
    scale = max(first.abs().max().item(), 1.0)
    spread = (first - second).abs().max().item()
    if not victim.randomised and spread > 1e-5 * scale:
        found.append(Finding("random-output", {"largest difference": spread}))
    flat = first.reshape(-1, first.shape[-1])
    sums = (flat.sum(1) - 1).abs().max().item()
    if flat.min().item() >= 0 and flat.max().item() <= 1 and sums < 1e-4:
        found.append(Finding("probabilities"))
    predicted = flat.argmax(1)
    if len(labels) >= LEAST_IMAGES and len(labels.unique()) > 1 and bool((predicted == predicted[0]).all()):
        found.append(Finding("constant-predictor", {"class": float(predicted[0]), "images": len(predicted)}))
    objective = victim.objective(labels, "ce", "direct", stream("checks"))
    assert isinstance(objective, Objective)
    grad = gradient(objective, images)[0].flatten(1)
    if any(not torch.equal(v, state[k]) for k, v in model.state_dict().items()):
        model.load_state_dict(state)  # a module in train mode updated its statistics: restore them
    dead = ((grad == 0).all(1) | ~grad.isfinite().all(1)).sum().item()
    if dead >= LEAST_IMAGES and dead > 0.01 * len(images):
        found.append(Finding("zero-gradients", {"images": dead, "of": len(images)}))
    return found


def _has_mode(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)


def _logits(victim: Victim, images: Tensor, labels: Tensor, number: int) -> Tensor:
    objective = victim.objective(labels, "ce", "direct", stream("checks", number))
    assert isinstance(objective, Objective)
    return objective.forward(images, None).detach().float()


def of_attacks(attacks: Sequence[Attack]) -> list[Finding]:
    """A finding if no attack's budget is large enough to cross the ball."""
    if all(a.rowwise and a.steps * a.size < 2 * a.eps * (1 - 1e-9) for a in attacks):
        reach = max(a.steps * a.size for a in attacks)
        return [Finding("weak-budget", {"steps · step size": reach, "2 · eps": 2 * attacks[0].eps})]
    return []


def of_ladder(names: Sequence[str], clean: Tensor, standing: Sequence[Tensor]) -> list[Finding]:
    """Findings from bits: the gain of Square over the attacks before it, and the gap of PGD-20 to the worst case."""
    found: list[Finding] = []
    for i, name in enumerate(names):
        if name.startswith("square") and i:
            found += gains(standing[i - 1], standing[i], "square-gain", points=0.2)
    if len(names) > 1 and names[0] == "pgd20":
        gap = float((standing[0].double() - standing[-1].double()).mean())
        if gap > 0.03:
            found.append(Finding("quick-too-weak", {"gap": gap}))
    return found


def of_rounding(returned: Tensor, rounded: Tensor) -> list[Finding]:
    """A finding if images rounded to 8 bits fool the model more often; bits (N,) of correctly classified images."""
    return gains(returned, rounded, "on-grid-gain", points=1.0)


@dataclass(frozen=True)
class Probe:
    """Findings from additional attacks, and the curves that a report draws.

    `eps_curve` holds (eps, robust accuracy) pairs; `loss_curve` the mean loss at each step.
    """

    findings: tuple[Finding, ...]
    eps_curve: tuple[tuple[float, float], ...]
    loss_curve: tuple[float, ...]


def probing_attack(attacks: Sequence[Attack]) -> Attack | None:
    """The attack that `probe` varies: the first PGD on the logits; None if there is none."""
    return next((a for a in attacks if a.kind == "pgd" and a.form == "direct"), None)


def probe(
    model: nn.Module,
    point: Point | None,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    standing: Tensor,
    *,
    seed: int = 0,
) -> Probe:
    """Run additional attacks on a sample: other radii, one step, twice the steps, more starts; record the loss curve.

    `attack` is a PGD attack of the row; `standing` (n,) are the images that are correct in the row's worst case.
    """
    victim = victim_at(model, point)

    def bits(one: Attack, rows: Tensor | None = None) -> Tensor:
        name = (seed, "probe", one.name, one.eps)
        return attack_chunk(victim, images, labels, one, name, rows=rows).robust.cpu()

    found: list[Finding] = []
    wide = LARGE if attack.norm == "linf" else LARGE * math.sqrt(images[0].numel())
    inner = [m * attack.eps for m in CURVE if m <= 1 or m * attack.eps < wide]
    radii = [*inner, *([wide] if wide > inner[-1] else [])]
    with_eps = [replace(attack, eps=e, step_size=None) for e in radii]
    curve = [bits(one) for one in with_eps]
    with torch.no_grad():
        clean = ~victim.judge(labels, stream(seed, "probe", "clean")).judge(images)[1].cpu()
    if not victim.randomised and not torch.equal(curve[0], clean):
        change = float((clean.double() - curve[0].double()).mean())
        found.append(Finding("eps-0-differs", {"clean - robust": change}))
    for before, after, radius in zip(curve[:-1], curve[1:], radii[1:], strict=True):
        rises = gains(after, before, "not-falling-in-eps", points=1.0, name="rise")
        found += [replace(f, figures={**f.figures, "eps": radius}) for f in rises]
    classes = _logits(victim, images[:1], labels[:1], 0).shape[-1]
    low = exact(int(curve[-1].sum()), len(labels))[0]
    if low > 1 / classes:
        share = float(curve[-1].double().mean())
        found.append(Finding("large-eps-survives", {"eps": radii[-1], "accuracy": share}))
    base = curve[radii.index(attack.eps)]
    one_step = replace(attack, label="fgsm", steps=1, step_size=attack.eps, start=False, momentum=0.0)
    found += gains(base, bits(one_step), "one-step-better", points=1.0)
    alive = standing.to(labels.device).nonzero()[:, 0]
    longer = replace(attack, label="longer", steps=2 * attack.steps, step_size=None)
    found += gains(standing, bits(longer, alive), "steps-gain", points=1.0)
    again = replace(attack, label="again", restarts=5)
    found += gains(standing, bits(again, alive), "restarts-gain", points=1.0)
    losses = climb(victim, images, labels, attack, seed)
    tenth = max(1, math.ceil(attack.steps / 10))
    whole, last = losses[-1] - losses[0], losses[-1] - losses[-1 - tenth]
    if attack.steps >= 10 and whole > 0 and last > 0.05 * whole:
        found.append(Finding("loss-still-moving", {"share": last / whole}))
    shares = tuple((e, float(b.double().mean())) for e, b in zip(radii, curve, strict=True))
    return Probe(tuple(found), shares, tuple(losses))


def climb(victim: Victim, images: Tensor, labels: Tensor, attack: Attack, seed: int = 0) -> list[float]:
    """The mean loss of the attack at its start and after every step, without dropping rows."""
    objective = victim.objective(labels, attack.loss, "direct", stream(seed, "climb"))
    assert isinstance(objective, Objective)
    seen: list[float] = []

    def noting(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def noted(logits: Tensor, labels: Tensor) -> Tensor:
            values = loss(logits, labels)
            seen.append(values.detach().mean().item())
            return values

        return noted

    watched = replace(objective, loss=noting(objective.loss), draws=1)
    plain = replace(attack, drop=False, restarts=1, eot=1)
    moved = plain(watched, images, stream(seed, "climb", "start"))
    with torch.no_grad():
        watched.judge(moved)
    return seen
