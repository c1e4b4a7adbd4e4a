"""Parameter and MAC counts from the papers (METHODS.md) and, for the rest, from the definitions."""

from __future__ import annotations

import pytest
import torch

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("net", "millions"),
    [
        (lambda: nets.resnet(depth=34), 21.282),
        (lambda: nets.resnet(depth=38), 0.564),
        (lambda: nets.wide_resnet(depth=16, widen=8), 10.961),
        (lambda: nets.wide_resnet(depth=40, widen=2), 2.244),
        (lambda: nets.wide_resnet(depth=28, widen=10), 36.479),
        (lambda: nets.resnet(depth=18), 11.174),
        (lambda: nets.resnet(depth=50), 23.521),
        (lambda: nets.mobilenet_v2(), 2.297),
    ],
)
def test_plain_parameters(net, millions: float) -> None:
    assert count(net()) / 1e6 == pytest.approx(millions, abs=0.0006)


def test_resnet_parameters_by_hand() -> None:
    # 3×3 convolutions, two per block; 1×1 shortcuts at two places; norms; the classifier.
    def by_hand(n: int, w: int) -> int:
        stages = [(w, w), (w, 2 * w), (2 * w, 4 * w)]
        total = 9 * 3 * w + 2 * w
        for i, (inside, out) in enumerate(stages):
            total += 9 * inside * out + (2 * n - 1) * 9 * out * out + 2 * n * 2 * out
            total += inside * out + 2 * out if i else 0
        return total + 4 * w * 10 + 10

    for depth in (8, 14, 20, 32, 38, 56, 74, 110):
        assert count(nets.resnet(depth=depth)) == by_hand((depth - 2) // 6, 16)


def test_small_cnn_parameters_by_hand() -> None:
    convolutions = (9 * 1 * 32 + 32) + (9 * 32 * 32 + 32) + (9 * 32 * 64 + 64) + (9 * 64 * 64 + 64)
    dense = (1024 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10)
    assert count(nets.small_cnn(padded=False)) == convolutions + dense


@pytest.mark.parametrize(
    ("net", "options", "millions"),
    [
        ("resnet34", {"encoding": "orthogonal", "dim": 128}, 33.355),
        ("resnet34", {"encoding": "scalar", "sets": 1}, 31.404),
        ("resnet34", {"dim": 16}, 31.649),
        ("wrn16-8", {"dim": 128}, 16.229),
        ("wrn40-2", {"dim": 128}, 3.886),
    ],
)
def test_oat_parameters(net: str, options: dict[str, object], millions: float) -> None:
    plain = {
        "resnet34": lambda: nets.resnet(depth=34),
        "wrn16-8": lambda: nets.wide_resnet(depth=16, widen=8),
        "wrn40-2": lambda: nets.wide_resnet(depth=40, widen=2),
    }[net]()
    model = Tunable(plain, compose("oat", **options))
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.0006)


@pytest.mark.parametrize(
    ("net", "image", "macs"),
    [
        (lambda: nets.resnet(depth=34), (3, 32, 32), 1159e6),
        (lambda: nets.resnet(depth=38), (3, 32, 32), 79.4 * 2**20),
        (lambda: nets.small_cnn(padded=False), (1, 28, 28), 9.256 * 2**20),
    ],
)
def test_convolution_macs(net, image: tuple[int, int, int], macs: float) -> None:
    model = Tunable(net(), compose("pgd-at"))
    assert observe(model, image).convolution_macs == pytest.approx(macs, rel=0.005)


def test_small_cnn_macs_by_hand() -> None:
    # unpadded 28 → 26 → 24 → 12 → 10 → 8
    by_hand = 9 * (32 * 26**2 + 32 * 32 * 24**2 + 32 * 64 * 10**2 + 64 * 64 * 8**2)
    model = Tunable(nets.small_cnn(padded=False), compose("pgd-at"))
    assert observe(model, (1, 28, 28)).convolution_macs == by_hand


def test_conditioning_adds_no_convolution_macs() -> None:
    plain = Tunable(nets.resnet(depth=8), compose("pgd-at"))
    oat = Tunable(nets.resnet(depth=8), compose("oat"))
    a, b = observe(plain, (3, 32, 32)), observe(oat, (3, 32, 32))
    assert a.convolution_macs == b.convolution_macs
