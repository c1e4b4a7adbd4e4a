"""`training_step`: the loss of one step, for use in your own loop (plain PyTorch, Lightning, Accelerate)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheostat.attacks import Attack
from rheostat.models.inputs import check_images
from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import preserved, seed_global, seed_of, stream
from rheostat.training.attacks import OwnAttack, as_training_attack
from rheostat.training.step import RowLoss, Step


def training_step(
    model: Tunable,
    batch: tuple[Tensor, Tensor],
    attack: Attack | OwnAttack,
    *,
    step: int,
    seed: int = 0,
    loss: RowLoss | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of one step of a model's method, a scalar with its graph: call `backward()` on it.

    `batch` holds images (B, C, H, W), floats in [0, 1] on the model's device, and labels (B,). `attack` makes the
    adversarial images from random streams of (`seed`, `step`), as `fit` does, so the same seeds give the same weights.
    This call trains norms by the statistics of each term's rows; a call `model(x)` is always an evaluation. `loss`
    (logits, labels) → (B,) replaces cross-entropy.

    The caller owns the optimiser, zeroes the gradients and sets the schedule. A method with masks also needs
    `model.method.after_step(model.net, share)` after each update and `after_epoch` after each epoch (`share` is the
    completed share of training, 0 to 1); for other methods both do nothing. ValueError for images or labels that the
    model does not accept, and for a model wrapped in DistributedDataParallel, which can only synchronise one forward.
    """
    if not isinstance(model, Tunable):
        raise ValueError(_no_tunable(model))
    images, labels = _checked(batch, model)
    ours = attack if isinstance(attack, OwnAttack) else as_training_attack(attack, eps=0.0, norm="linf")
    one = Step(model, ours, Ranks(), label_smoothing, loss=loss)
    size = len(images)
    terms = model.method.plan(size, stream(seed, "plan", step))
    streams = (seed, "step", step)
    with preserved(images.device):
        seed_global(seed_of(seed, "dropout", step, 0), images.device)
        groups = one.attacked(terms, images, labels, batch=size, seed=streams)
        parts = [total for _, total, _, _, _ in one.losses(groups, size, streams, phase=Phase.TRAIN)]
    return torch.stack(parts).sum()


def _no_tunable(model: Any) -> str:
    if isinstance(model, nn.Module) and isinstance(getattr(model, "module", None), Tunable):
        return (
            f"training_step takes the model itself, not a {type(model).__name__}: a step has several forward passes. "
            "Give model.module and sum the gradients over the ranks, or run `fit` under torchrun"
        )
    return f"training_step takes a Tunable, given a {type(model).__name__}; make one: rheostat.adopt(network, ...)"


def _checked(batch: tuple[Tensor, Tensor], model: Tunable) -> tuple[Tensor, Tensor]:
    """Images and labels; ValueError unless they are the model's."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be (images, labels), given a {type(batch).__name__}")
    images, labels = batch
    check_images(images, model.net.image)
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise ValueError(f"labels must be {len(images)} whole numbers, given {labels.dtype} {tuple(labels.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < model.net.classes:
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())}; the model has {model.net.classes}")
    return images, labels
