"""Forward and backward of an adopted ResNet-18 over our own's, under the same methods: interleaved, medians
of processor time, which other processes of a busy machine do not lengthen by their turns.

Both networks do the same arithmetic: the adopted one is plain PyTorch with the blocks, the 3×3 stem and the widths of
`rheostat.nets.resnet(depth=18)`, and takes its weights' shapes. Bar: at most 1.05.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat import nets
from rheostat.methods import compose
from rheostat.models.adoption import adopted
from rheostat.models.artifact import versions
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable
from rheostat.nn.norms import Norm
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.results.timings import write_timings
from rheostat.runtime.allocator import keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results" / "adopted-speed.jsonl"
BAR = 1.05
IMAGE = (3, 32, 32)


class Block(nn.Module):
    """A basic residual block as most people write it."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            convolution = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.relu(out)


class ResNet18(nn.Module):
    """ResNet-18 with a 3×3 stem, in plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        widths, blocks = (64, 64, 128, 256, 512), []
        for stage in range(4):
            blocks.append(Block(widths[stage], widths[stage + 1], 1 if stage == 0 else 2))
            blocks.append(Block(widths[stage + 1], widths[stage + 1], 1))
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def passes(model: Tunable, batch: int) -> Callable[[], float]:
    """A function that makes one forward and backward of a training pass and returns the seconds of the processor."""
    model.to_layout(torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *IMAGE, generator=generator)
    y = torch.randint(0, 10, (batch,), generator=generator)
    point = Point(robustness=1.0) if "robustness" in model.dials else None

    def run() -> float:
        start = time.process_time()
        at = model.resolve(point, x, phase=Phase.TRAIN, generator=generator)
        F.cross_entropy(model.read(x, at).logits, y).backward()
        for parameter in model.parameters():
            parameter.grad = None
        return time.process_time() - start

    return run


def ratios(paper: str, batch: int, times: int) -> list[float]:
    """Seconds of the adopted network over those of ours, pass by pass, in turns."""
    net = adopted(ResNet18, image=IMAGE)
    for name, layer in net.named_modules():
        if isinstance(layer, Norm) and "downsample" in name:
            layer.conditioned = False  # as in ours: FiLM does not go on shortcuts
    theirs = Tunable(net, compose(paper))
    ours = Tunable(nets.resnet(depth=18), compose(paper))
    counts = [observe(m, IMAGE).macs for m in (theirs, ours)]
    assert counts[0] == counts[1], counts
    first, second = passes(theirs, batch), passes(ours, batch)
    found = []
    for number in range(times + 2):
        # There and back: neither is always the one that follows the other.
        a, b = (first(), second()) if number % 2 else (second(), first())[::-1]
        if number > 1:
            found.append(a / b)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="interleaved repetitions")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for paper in ("pgd-at", "dual", "oat", "float"):
        found = ratios(paper, options.batch, options.times)
        low, median, high = statistics.quantiles(found, n=4)
        rows.append(
            {
                "name": f"ResNet-18, {paper}, batch {options.batch}: forward and backward, adopted ÷ ours",
                "a": "adopted",
                "b": "ours",
                "ratio": {"median": median, "low": low, "high": high},
                "bar": BAR,
                "n": len(found),
                "seed": 0,
                "hardware": hardware(torch.device("cpu")),
                "versions": versions(),
            }
        )
        print(f"{paper:>8}  {median:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    write_timings(options.out, rows)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
