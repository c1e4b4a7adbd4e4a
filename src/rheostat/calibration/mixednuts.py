"""Fit of the nonlinearity of MixedNUTS (s, p, c) on held-out images. Source: Bai et al., TMLR 2024, §5 and code."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from rheostat.attacks import Attack
from rheostat.calibration.after_training import FITTINGS, Fitting
from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.attacked import CHUNK
from rheostat.methods.mixednuts import Nonlinearity, transformed
from rheostat.methods.mixing import twin_of
from rheostat.models.adoption import device_of
from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.runtime.precision import full_precision
from rheostat.runtime.seeding import stream

SCALES, POWERS, BIASES = (0.05, 5.0), (1.0, 4.0), (-1.1, 0.0)
"""The ranges that the authors search on CIFAR-10; the scales are evenly spaced in their logarithm."""
STEPS = 8
USABLE = (0.05, 0.95)
"""Cutoffs that leave the dial a range to act on: α = 1/(1 + cutoff) is close to neither ½ nor 1."""


@dataclass(frozen=True)
class FittedNuts:
    """The chosen s, p, c and their margins.

    A share β of the correct answers on attacked images has a margin of at least `cutoff`; `wrong_above` is
    the share of wrong answers on clean images that also reach it (lower is better).
    """

    scale: float
    power: float
    bias: float
    cutoff: float
    wrong_above: float


def margins(logits: Tensor, scale: float, power: float, bias: float) -> Tensor:
    """Margins of softmax(M(logits)), (n, K) → (n,) float64.

    A margin is the probability of the top class of `logits` minus the largest other probability. It is
    negative if M changes the predicted class, which is possible because GELU is not monotone.
    """
    wide = logits.double()
    probabilities = transformed(wide, *(wide.new_tensor(v) for v in (scale, power, bias))).softmax(1)
    answer = logits.argmax(1, keepdim=True)
    others = probabilities.scatter(1, answer, 0.0)
    return probabilities.gather(1, answer)[:, 0] - others.amax(1)


def fitted_to(right: Tensor, wrong: Tensor, *, beta: float = 0.985) -> FittedNuts:
    """The best s, p, c of a grid, given (n, K) logits of correct attacked images and of misclassified clean images.

    Ties go to the candidate whose cutoff is nearest 0.5. Raises ValueError if either set is empty.
    """
    if not len(right) or not len(wrong):
        raise ValueError(
            f"MixedNUTS needs correct attacked images and misclassified clean ones; there are {len(right)} and "
            f"{len(wrong)}"
        )
    first, last = (torch.tensor(v, dtype=torch.float64).log10() for v in SCALES)
    scales = torch.logspace(float(first), float(last), STEPS, dtype=torch.float64).tolist()
    powers, biases = (torch.linspace(*r, STEPS, dtype=torch.float64).tolist() for r in (POWERS, BIASES))
    found = []
    for scale, power, bias in itertools.product(scales, powers, biases):
        cutoff = min(float(margins(right, scale, power, bias).quantile(1 - beta)), 1 - 1e-9)
        above = float((margins(wrong, scale, power, bias) >= cutoff).double().mean())
        found.append(FittedNuts(scale, power, bias, cutoff, above))
    usable = [f for f in found if USABLE[0] <= f.cutoff <= USABLE[1]] or found
    return min(usable, key=lambda f: (f.wrong_above, abs(f.cutoff - 0.5)))


@full_precision()
def fit_nonlinearity(
    model: Tunable, data: Dataset, attack: Attack, *, beta: float = 0.985, seed: int = 0
) -> FittedNuts:
    """Fit s, p, c of a MixedNUTS model on the split calibrate-fit and store them in the model.

    The attack targets the robust network. Raises ValueError for another model, or for the test split.
    """
    if not _needed(model):
        raise ValueError('this model has no nonlinearity to fit; train mixing with mix="mixednuts"')
    data = data.to_choose_on().to(device_of(model))
    right, wrong = [], []
    point = Point(robustness=1.0)
    for first in range(0, len(data), CHUNK):
        x, y = to_pixels(data.images[first : first + CHUNK]), data.labels[first : first + CHUNK]
        goal = model.objective(y, point, phase=Phase.ATTACK)  # on the logits as training sees them: h, not M(h)
        moved = attack(goal, x, stream(seed, "mixednuts", first))
        with torch.no_grad():
            at = model.resolve(point, x)
            clean, attacked = (twin_of(model.net)(images, at) for images in (x, moved))
        right.append(attacked[attacked.argmax(1) == y])
        wrong.append(clean[clean.argmax(1) != y])
    found = fitted_to(torch.cat(right), torch.cat(wrong), beta=beta)
    nonlinearity = model.net.get_submodule("nonlinearity")
    assert isinstance(nonlinearity, Nonlinearity)
    for buffer, value in (
        (nonlinearity.scale, found.scale),
        (nonlinearity.power, found.power),
        (nonlinearity.bias, found.bias),
    ):
        buffer.fill_(value)
    return found


def _needed(model: Tunable) -> bool:
    return any(isinstance(m, Nonlinearity) for m in model.modules())


FITTINGS.append(Fitting("the nonlinearity of MixedNUTS", _needed, fit_nonlinearity))
