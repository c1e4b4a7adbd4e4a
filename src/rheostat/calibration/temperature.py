"""Temperature scaling, one temperature per point, which calibrates probabilities. Source: Guo et al., ICML 2017."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.attacked import chunks
from rheostat.evaluation.scoring import calibration
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.precision import full_precision


@full_precision()
@torch.no_grad()
def logits_of(model: Tunable, point: Point, dataset: Dataset) -> Tensor:
    """Logits on clean images, (N, K), on the CPU."""
    at = model.at(point)
    device = next(model.parameters()).device
    parts = [at(to_pixels(dataset.images[p]).to(device)).float().cpu() for p in chunks(dataset)]
    return torch.cat(parts)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the negative log-likelihood; logits (N, K), labels (N,)."""
    from scipy.optimize import minimize_scalar  # imported here because it takes a third of a second

    wide, labels = logits.double(), labels.cpu()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(wide / torch.tensor(log_temperature).exp().double(), labels))

    found = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return float(torch.tensor(found.x).exp())


def calibrated(model: Tunable, point: Point, fit: Dataset, held_out: Dataset) -> dict[str, float]:
    """Fit the temperature on `fit` and measure ECE before and after on `held_out`; neither may be the test split."""
    temperature = fit_temperature(logits_of(model, point, fit.to_choose_on()), fit.labels)
    logits = logits_of(model, point, held_out.to_choose_on())
    labels = held_out.labels.cpu()
    return {
        "temperature": temperature,
        "ece_before": calibration(logits, labels)["ece"],
        "ece_after": calibration(logits / temperature, labels)["ece"],
    }
