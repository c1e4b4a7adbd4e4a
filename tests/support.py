"""What tests share: small networks, models of every composition, whole rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheostat
from rheostat import nets
from rheostat.methods import COMPOSITIONS, Exits, compose
from rheostat.methods.base import Method, Term, row_loss
from rheostat.models.adoption import adopted
from rheostat.models.tunable import Tunable
from rheostat.nets import mobilenet, residual
from rheostat.nets.adopted import NAME
from rheostat.nn.masking import Path
from rheostat.points.phase import Phase
from rheostat.results.intervals import accuracies
from rheostat.results.row import Row


class Plain(nn.Module):
    """A user's own network without our seats: batch, group and layer norms, linear layers inside, two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.groups = nn.GroupNorm(4, 16)
        self.mix = nn.Conv2d(16, 16, 3, padding="same", groups=4, padding_mode="circular")
        self.layer = nn.LayerNorm(16)
        self.up, self.back = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)
        self.last = nn.Sequential(nn.Conv2d(16, 48, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.groups(self.down(self.stem(x))))
        tokens = self.layer(self.mix(x).permute(0, 2, 3, 1))
        x = x + self.back(F.gelu(self.up(tokens))).permute(0, 3, 1, 2)
        x = F.adaptive_avg_pool2d(self.last(x), 1)
        return self.head(self.drop(x.view(x.size(0), -1)))


class Computed(nn.Conv2d):
    """A 3 × 3 convolution whose weight is computed once from a parameter, as PyTorch's older weight norm does it."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3)
        plain = self._parameters.pop("weight")
        assert plain is not None
        self.plain = plain
        self.weight = plain * 2


def factory_of(model: Tunable) -> Callable[[], nn.Module] | None:
    """What makes the plain module of an adopted network in a test's file; None for networks of ours."""
    return Plain if model.net.spec["name"] == NAME else None


NETS: dict[str, Callable[[], nets.Net]] = {
    "small_cnn": lambda: nets.small_cnn(base_width=8, image=(1, 12, 12)),
    "resnet-8": lambda: nets.resnet(depth=8, base_width=4, image=(3, 8, 8)),
    "resnet-18": lambda: nets.resnet(depth=18, base_width=4, image=(3, 8, 8)),
    "resnet-50": lambda: nets.resnet(depth=50, base_width=4, image=(3, 8, 8)),
    "wide_resnet": lambda: nets.wide_resnet(depth=10, widen=2, base_width=4, dropout=0.1, image=(3, 8, 8)),
    "mobilenet_v2": lambda: nets.mobilenet_v2(width=0.25, image=(3, 8, 8)),
    "adopted": lambda: adopted(Plain(), image=(3, 8, 8)),
}


MORE_NETS: dict[str, Callable[[], nets.Net]] = {
    "resnet-8, silu": lambda: nets.resnet(depth=8, base_width=4, image=(3, 8, 8), activation="silu")
}
"""Variants, which the contract of every method × network leaves out."""


def make(paper: str, net: str) -> Tunable:
    """An untrained model whose parts have all been moved off their initial values."""
    torch.manual_seed(0)
    model = Tunable(NETS[net](), compose(paper))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("thresholds"):
                buffer.fill_(2.5)  # above ln 10: at 1 every row leaves by the first exit
            if name.endswith("running_var"):
                buffer.copy_(1 + 0.5 * torch.rand(buffer.shape, generator=generator))
    return model


def images_for(model: Tunable, count: int = 6) -> Tensor:
    """Random images of the model's shape."""
    return torch.rand(count, *model.net.image, generator=torch.Generator().manual_seed(2))


def plan_of(method: Method, batch: int, generator: torch.Generator) -> list[Term]:
    """The terms of a training step over `batch` rows: the only place in which these tests ask for a plan."""
    return method.plan(batch, generator)


def paths(model: Tunable) -> list[Path]:
    """Every mask of a model."""
    return [m for m in model.modules() if isinstance(m, Path)]


def train_step(model: Tunable, seed: int = 0, lr: float = 0.05) -> None:
    """One step of a method's own plan, without an attack: gradients, update, bookkeeping."""
    x = images_for(model, 12)
    y = torch.arange(12) % 10
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    for term in plan_of(model.method, 12, generator):
        at = model.resolve(term.at, x[term.rows], phase=Phase.TRAIN, generator=generator)
        loss = row_loss(model.read(x[term.rows], at), y[term.rows])
        (loss * term.weight).sum().div(12).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    model.method.after_step(model.net, 0.1)


def made_row(clean: Tensor | None = None, robust: Tensor | None = None, **changes: Any) -> Row:
    """A whole row with the accuracies of these bits (n,), and some fields set otherwise."""
    clean = torch.ones(8, dtype=torch.bool) if clean is None else clean
    robust = clean if robust is None else robust
    at = changes.get("at", {})
    calibrated = "robustness" in at and changes.get("rule") is None
    fields = {
        "run": "x",
        "artifact": "a",
        "net": "Net",
        "dataset": "digits",
        "dataset_hash": "d",
        "split": "test",
        "at": at,
        "dial": ("t" if calibrated else "lambda") if "robustness" in at else None,
        "tier": "quick",
        "n": len(clean),
        "seed": 0,
        "attack": {"name": "worst", "of": ["pgd20"], "norm": "linf", "eps": 0.1},
        **accuracies(clean, robust),
        "params": 10,
        "nonzeros": 10,
        "macs": {"mean": 100, "p50": 100, "p99": 100},
        "versions": {},
        "hardware": {"device": "cpu", "threads": 1},
    }
    return Row(**fields | changes)


GRID = [(paper, net) for paper in COMPOSITIONS.names() for net in NETS]


def shorten(paper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the deep families fewer blocks, of every kind that the whole networks have.

    Tests of the whole grid spend their time on depth, and find nothing in the fourth block of a kind that the
    first does not show. The whole networks are counted in `test_goldens.py` and run in `nets/`. MobileNetV2 with
    exits stays whole, because its exits have positions in the whole network.
    """
    for depth in (18, 50):
        monkeypatch.setitem(residual.IMAGENET_BLOCKS, depth, (1, 2, 1, 1))
    if Exits not in COMPOSITIONS.get(paper).parts:
        monkeypatch.setattr(mobilenet, "STAGES", ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2), (6, 64, 1, 2)))


class Break(Exception):
    """What `Dies` raises."""


class Dies(rheostat.Callback):
    """A callback that breaks a training off after a step, as a kill between checkpoints would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Any, values: Any) -> None:
        if values["step"] == self.step:
            raise Break
