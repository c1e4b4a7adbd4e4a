"""How many queries, and which schedule, Square needs as the check on masked gradients of `standard`.

Four networks on one thread, trained here from fixed seeds by one step with a random start (Wong et al., ICLR 2020):
MNIST at eps 0.3 and Fashion-MNIST at 0.15, each as it is and behind a layer that rounds pixels to 8 values, whose
gradient is 0 everywhere. Each is attacked by the white-box attacks of the tier, and by every Square by itself.

    python benchmarks/measure/square_budget.py [--images 300]

writes benchmarks/results/square.jsonl, with the bits beside, and prints what each Square leaves by itself and after
the white-box attacks (per image, the worse of both).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat import EvaluationOptions, data, evaluate
from rheostat.attacks import named
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation.target import Target
from rheostat.results.bits import read_bits
from rheostat.results.row import Row

OUT = Path(__file__).parents[1] / "results" / "square.jsonl"
WHITE = ("pgd20", "fgsm", "mi-fgsm", "apgd-ce", "apgd-t")
SQUARES = ("square", "square1000-rescaled", "square2000-rescaled", "square5000", "square5000-rescaled")
SETTINGS = (("mnist", 0.3, 12), ("fashion-mnist", 0.15, 8))
"""Data set, radius, epochs."""
TRAINED, BATCH, RATE, WARMUP, OVERSHOOT = 10_000, 64, 2e-3, 3, 1.25
VALUES = 8


class Rounding(nn.Module):
    """Pixels rounded to a few values: a gradient of 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * (VALUES - 1)).round() / (VALUES - 1)


def network() -> nn.Sequential:
    """Two convolutions and two dense layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def trained(train: Dataset, eps: float, epochs: int) -> nn.Sequential:
    """A network trained on images of one step of 1.25 eps from a random start; eps rises in the first epochs."""
    torch.manual_seed(0)
    net = network()
    images, labels = to_pixels(train.images[:TRAINED]), train.labels[:TRAINED]
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    for epoch in range(epochs):
        radius = eps * min(1.0, (epoch + 1) / WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (epochs - epoch) / epochs)
        for rows in torch.randperm(len(images)).split(BATCH):
            x, y = images[rows], labels[rows]
            start = (torch.rand_like(x) * 2 - 1) * radius
            leaf = (x + start).requires_grad_(True)
            (grad,) = torch.autograd.grad(F.cross_entropy(net(leaf), y), leaf)
            delta = (start + OVERSHOOT * radius * grad.sign()).clamp(-radius, radius)
            loss = F.cross_entropy(net((x + delta).clamp(0, 1)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def measure(name: str, model: nn.Module, sample: Dataset, eps: float, out: Path) -> None:
    """Rows of the white-box attacks, and of each Square by itself; a line of what they leave."""
    options = EvaluationOptions(out=out, probing=False)
    target = Target(model, name)
    ladder = evaluate(target, None, [named(n, eps=eps) for n in WHITE], sample, options=options)
    alone: dict[str, Row] = {}
    for square in SQUARES:
        alone[square] = evaluate(target, None, [named(square, eps=eps)], sample, options=options)[-1]
    bits = read_bits(out)
    white = bits.of(ladder[-1])[1]
    clean = 100 * ladder[-1].clean_accuracy
    print(f"{name}: n {len(sample)}, SA {clean:.1f}, white-box {100 * white.double().mean():.1f}")
    for square, row in alone.items():
        robust = bits.of(row)[1]
        both = 100 * (white & robust).double().mean()
        by_itself = 100 * robust.double().mean()
        print(
            f"  {square:22} by itself {by_itself:5.1f}, after white-box {both:5.1f}, {row.seconds:6.1f} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="test images of each data set")
    parser.add_argument("--out", type=Path, default=OUT, help="file of rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, eps, epochs in SETTINGS:
        train, test = data.load(name)
        net = trained(train, eps, epochs)
        sample = subset(test, given.images)
        measure(f"one-step-{name}", net, sample, eps, given.out)
        measure(f"one-step-{name}-rounding", nn.Sequential(Rounding(), net), sample, eps, given.out)


if __name__ == "__main__":
    main()
