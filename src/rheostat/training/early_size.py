"""Smaller images in the early part of training (`train.early_size`), which cost less per step.

Also called progressive resizing. Scoring and calibration always use images of the full size. Source: Howard, entry of
fast.ai to DAWNBench (2018); its use under attack is ours.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase
from rheostat.runtime.seeding import preserved, stream
from rheostat.training.settings import TrainSection


def reduced_size(image: tuple[int, ...], train: TrainSection) -> tuple[int, int]:
    """(H, W) of the early images of a network whose images are (C, H, W), at least one pixel each way."""
    height, width = (max(round(side * train.early_size), 1) for side in image[-2:])
    return height, width


def sized(images: Tensor, train: TrainSection, share: float) -> Tensor:
    """The images of a step (B, C, H, W), reduced while `share` of training is less than `early_until`."""
    if train.early_size == 1 or share >= train.early_until:
        return images
    size = reduced_size(tuple(images.shape), train)
    # The weights of this filter are not negative and sum to 1, so pixels stay in [0, 1].
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@torch.no_grad()
def check_early_size(model: Tunable, train: TrainSection) -> None:
    """ValueError if the network, or a head of it, does not take images of the reduced size."""
    if train.early_size == 1:
        return
    size = reduced_size(model.net.image, train)
    trial = copy.deepcopy(model)  # a pass of training, which runs every head, updates running statistics
    trial.__dict__.pop("read", None)  # a compiled pass would be that of the model itself
    device = next((p.device for p in trial.parameters()), torch.device("cpu"))
    x = torch.full((2, trial.net.image[0], *size), 0.5, device=device)
    try:
        with preserved(device):
            trial.read(x, trial.resolve(trial.complete(None), x, phase=Phase.TRAIN, generator=stream("early size")))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"train.early_size={train.early_size:g}: this network does not take images of {size[0]} × {size[1]} pixels "
            f"({' '.join(str(error).split())[:120]}); leave it out, or take a network that pools over all positions"
        ) from None
