"""What is checked of one of timm's networks under one method, and the row that says how it went."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm_shim import timm
from torch import nn

import rheostat
from rheostat.deploy.exporting import export
from rheostat.methods import Exits, Method, Slim, Stack, compose
from rheostat.models.artifact import About
from rheostat.models.costs import observe
from rheostat.models.folding import fold
from rheostat.points.point import Point

OPTIONS: dict[str, dict[str, object]] = {
    "vgg11_bn": {
        "mlp_ratio": 0.0625
    },  # the hidden layer of its classifier has 256 features; 4096 are 100 million weights
    "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_patch16_224": {"img_size": 64},
}
NETS: dict[str, dict[str, object]] = {
    name: OPTIONS.get(name, {})
    for name in (
        *("resnet18", "resnet26", "resnet50", "resnext50_32x4d", "regnetx_002", "regnety_002", "mobilenetv2_100"),
        *("mobilenetv3_small_100", "efficientnet_b0", "densenet121", "vgg11_bn", "convnext_atto", "convnext_tiny"),
        *("resnet50_gn", "vit_tiny_patch16_224", "deit_tiny_patch16_224"),
    )
}
METHODS: dict[str, Callable[[], Method]] = {
    "dual": lambda: compose("dual"),
    "film": lambda: compose("oat"),
    "noise": lambda: compose("float"),
    "masks": lambda: compose("floats"),
    "slim": lambda: Stack(Slim()),
    "exits": lambda: Stack(Exits()),
}
IMAGE = (3, 64, 64)
SAME = 1e-5


def plain(name: str) -> nn.Module:
    """One of timm's networks with ten classes, untrained, its norms moved off their initial values."""
    torch.manual_seed(0)
    module: nn.Module = timm().create_model(name, pretrained=False, num_classes=10, **NETS[name]).eval()
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.ndim == 1 and value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape))
    return module


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a share of the largest expected value, or of 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1))


def covered(name: str, module: nn.Module, method: str, *, files: bool) -> dict[str, Any]:
    """A row: whether a network works under a method, else the sentence that refuses it.

    That it works means: at rest it gives the module's logits (sparse networks excepted: their masks are part of
    them), a turned dial changes the logits, a folded point equals the model and, with `files`, so does its ONNX file.
    """
    row: dict[str, Any] = {"net": name, "method": method}
    try:
        model = rheostat.adopt(module, METHODS[method](), image=IMAGE)
    except ValueError as error:
        return row | {"works": False, "why": str(error)}
    x = torch.rand(2, *IMAGE, generator=torch.Generator().manual_seed(1))
    point = turned(model)
    with torch.no_grad():
        at_rest, at_point, expected = model(x), model(x, point), module(x)
        assert method == "masks" or gap(at_rest, expected) <= SAME, (name, method)
        assert method in ("dual", "film") or gap(at_point, at_rest) > SAME, (name, method)
        folded = fold(model, point)
        assert gap(folded(x), at_point) <= SAME, (name, method)
    if files:
        with tempfile.TemporaryDirectory() as folder:
            export(model, About(), Path(folder) / "point.onnx", at=point, images=x)  # compares with the model itself
    return (
        row
        | {"works": True, "dials": {k: list(d.values or (d.low, d.high)) for k, d in model.dials.items()}}
        | {"macs": observe(model, IMAGE, point).macs}
    )


def turned(model: rheostat.Tunable) -> Point:
    """A point off rest: the dial half turned, the least width, the first exit."""
    found = {"robustness": 0.5, "width": 0.5, "depth": 1.0}
    return Point(**{name: found[name] for name in model.dials if name in found})
