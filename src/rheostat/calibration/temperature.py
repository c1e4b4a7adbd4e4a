"""Temperature scaling, one temperature per point, which calibrates probabilities. Source: Guo et al., ICML 2017."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.attacked import chunks
from rheostat.evaluation.scoring import calibration
from rheostat.runtime.precision import full_precision


@full_precision()
@torch.no_grad()
def logits_of(module: nn.Module, dataset: Dataset) -> Tensor:
    """Logits of a module (images → logits) on clean images, (N, K), on the CPU."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    parts = [module(to_pixels(dataset.images[p]).to(device)).float().cpu() for p in chunks(dataset)]
    return torch.cat(parts)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the negative log-likelihood; logits (N, K), labels (N,)."""
    from scipy.optimize import minimize_scalar  # imported here because it takes a third of a second

    wide, labels = logits.double(), labels.cpu()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(wide / torch.tensor(log_temperature).exp().double(), labels))

    found = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return float(torch.tensor(found.x).exp())


def calibrated(module: nn.Module, fit: Dataset, held_out: Dataset) -> dict[str, float]:
    """Fit the temperature on `fit` and measure ECE before and after on `held_out`; neither may be the test split."""
    temperature = fit_temperature(logits_of(module, fit.to_choose_on()), fit.labels)
    logits = logits_of(module, held_out.to_choose_on())
    labels = held_out.labels.cpu()
    return {
        "temperature": temperature,
        "ece_before": calibration(logits, labels)["ece"],
        "ece_after": calibration(logits / temperature, labels)["ece"],
    }
