"""Networks and steps as straight lines of plain torch: what the golden tests compare the package with.

Nothing here uses a seat, a method or a stack. Weights are a dict by the names of the package's state, in float64;
running statistics in it are changed by passes that train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat import nets
from rheostat.attacks import Candidates, Objective
from rheostat.methods import compose
from rheostat.methods import noise as noise_module
from rheostat.methods.base import Term
from rheostat.models.tunable import Tunable
from rheostat.runtime.distributed import Ranks
from rheostat.training.step import Step
from support import plan_of

Weights = dict[str, Tensor]
Layer = Callable[[str, Tensor], Tensor]
Convolution = Callable[..., Tensor]

EPS = 0.05
BATCH = 8
IMAGES = torch.rand(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
LABELS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


@contextmanager
def doubles() -> Iterator[None]:
    """float64 throughout: the package's default type, and what it casts to fp32."""
    single = torch.float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        patch.setattr(torch, "float32", torch.float64)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(single)


def model_of(paper: str, **options: Any) -> Tunable:
    """A tiny ResNet-8 of float64 under a composition, every part moved off its initial value."""
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(3, 8, 8)), compose(paper, **options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(1 + 0.5 * torch.rand(buffer.shape, generator=generator))
            if name.endswith("thresholds"):
                buffer.fill_(2.0)
    model.method.after_step(model.net, 0.0)  # stored weights are masked
    return model


def weights_of(model: Tunable) -> Weights:
    """Copies of all tensors of a model by name (less the leading "net."), parameters as leaves."""
    leaves = {name for name, _ in model.named_parameters()}
    return {
        name.removeprefix("net."): value.detach().clone().requires_grad_(name in leaves)
        for name, value in model.state_dict().items()
    }


def plain_norm(w: Weights, name: str, h: Tensor, *, train: bool, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch normalisation by the statistics at `name`, then scale and shift (C) or (B, C)."""
    mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    if train:
        count = h.numel() / h.shape[1]
        batch_mean = h.mean((0, 2, 3))
        batch_var = (h - batch_mean[:, None, None]).square().mean((0, 2, 3))
        w[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean.detach()
        w[f"{name}.running_var"] = 0.9 * var + 0.1 * batch_var.detach() * count / (count - 1)
        mean, var = batch_mean, batch_var
    normal = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    return normal * scale.reshape(-1, scale.shape[-1], 1, 1) + shift.reshape(-1, shift.shape[-1], 1, 1)


def block(h: Tensor, name: str, conv: Convolution, norm: Layer, stride: int, *, same: bool) -> Tensor:
    """A basic residual block; `same`: its shortcut is the identity."""
    out = F.relu(norm(f"{name}.norm1", conv(f"{name}.conv1", h, stride, 1)))
    out = norm(f"{name}.norm2", conv(f"{name}.conv2", out, 1, 1))
    past = h if same else norm(f"{name}.shortcut.norm", conv(f"{name}.shortcut.conv", h, stride, 0))
    return F.relu(out + past)


def features(x: Tensor, conv: Convolution, norm: Layer) -> list[Tensor]:
    """What the four blocks of the ResNet-8 yield: the stem, and one block in each of three stages."""
    h = F.relu(norm("blocks.0.norm", conv("blocks.0.conv", (x - 0.5) / 0.25, 1, 1)))
    found = [h]
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        h = block(h, f"blocks.{number}", conv, norm, stride, same=stride == 1)
        found.append(h)
    return found


def linear(w: Weights, name: str, h: Tensor) -> Tensor:
    """Global average pooling, then the layer at `name`."""
    return h.mean((2, 3)) @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per row."""
    return logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]


def signed_step(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The attack of these tests: one step of size EPS along the sign of the gradient, in the box."""
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return (x + EPS * gradient.sign()).clamp(0, 1)


class OneStep:
    """The same attack as the package calls it."""

    loss = "ce"

    def __call__(self, objective: Objective | Candidates, images: Tensor, *_: object, **__: object) -> Tensor:
        if isinstance(objective, Objective):
            return signed_step(objective, images)
        made = [signed_step(one, images) for one in objective.objectives]
        with torch.no_grad():
            best = torch.stack([objective.score(x) for x in made]).argmax(0)
        return torch.stack(made)[best, torch.arange(len(images))]


def package_step(model: Tunable, terms: list[Term] | None = None) -> float:
    """The package's own step on these images: gradients and statistics are left in the model; returns the loss."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    terms = plan_of(model.method, BATCH, torch.Generator().manual_seed(0)) if terms is None else terms
    step = Step(model, OneStep(), Ranks())  # type: ignore[arg-type]
    return step.backward(terms, IMAGES, LABELS, batch=BATCH, seed=(0,))["loss"]


@contextmanager
def recorded_noise() -> Iterator[list[Tensor]]:
    """The draws of training noise, in their order, while the package steps."""
    drawn: list[Tensor] = []
    generator = torch.Generator().manual_seed(11)

    def window(shape: torch.Size, *_: object) -> Tensor:
        drawn.append(torch.randn(shape, generator=generator))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_module, "window", window)
        yield drawn


def compare(model: Tunable, w: Weights, found: float, loss: Tensor) -> None:
    """Loss, every gradient and every running statistic of the package's step against those of the straight line."""
    assert found == pytest.approx(float(loss.detach()), abs=1e-9)
    names = [name for name, _ in model.named_parameters()]
    leaves = [w[name.removeprefix("net.")] for name in names]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    for name, parameter, gradient in zip(names, model.parameters(), gradients, strict=True):
        expected = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter.grad, expected, atol=1e-7, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    for name, buffer in model.named_buffers():
        if "running" in name:
            expected = w[name.removeprefix("net.")]
            torch.testing.assert_close(buffer, expected, atol=1e-9, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
