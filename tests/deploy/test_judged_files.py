"""The attacks that judge a file without gradients: rounding alone must not look like robustness."""

from __future__ import annotations

import numpy as np
import torch

from rheostat import data
from rheostat.deploy.quantising import judged
from rheostat.models import artifact
from rheostat.points.point import Point

POINT = Point(robustness=1.0)


class Rounded:
    """The model with an error in its logits that looks random and is fixed for an image, as that of a low precision."""

    def __init__(self, model: torch.nn.Module, size: float) -> None:
        self.model, self.size = model.at(POINT), size

    def __call__(self, images: np.ndarray, validate: bool = True) -> np.ndarray:
        with torch.no_grad():
            logits = self.model(torch.from_numpy(images)).numpy()
        error = np.tanh(1e3 * logits[:, ::-1]) * np.sign(images.reshape(len(images), -1)[:, :10] - 0.5)
        return (logits + self.size * error).astype(np.float32)


def test_a_rounded_file_does_not_withstand_the_images_of_its_own_model() -> None:
    """Rounding turns back images that stop at the decision boundary of the model, and not those of all steps."""
    model, _ = artifact.load_with("oat-digits")
    test = data.subset(data.load("digits")[1], 300)
    for size in (0.0, 0.3):
        found = judged(model, POINT, Rounded(model, size), test, eps=0.2)
        assert abs(float(found.clean.double().mean() - found.float_clean.double().mean())) < 0.02
        won = (found.transferred & ~found.float_robust).double().mean()
        assert won < 0.02, f"{won:.3f} of the images are robust by an error of {size}"
        assert (found.robust <= found.transferred).all()
