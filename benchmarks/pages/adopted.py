"""docs/adopted.md: how to adopt a network, and what works on timm's architectures, from rows alone."""

from __future__ import annotations

from markdown import table
from plain import Row

HEAD = """# Your own network

Written by `python benchmarks/pages/build.py` from `benchmarks/results/adopted.jsonl` and `adopted-speed.jsonl`; no
figure here was typed.

`rheostat.adopt(module, composition, image=(3, 96, 96))` makes a tunable model of any PyTorch module that maps images
to logits. Its forward is traced; convolutions, batch, layer and group norms, linear layers and dropout become seats
that methods condition, and everything else stays as it is. The module itself is not changed, and the model at rest
gives the module's own logits. A forward may branch on sizes, but not on the values of tensors.

```python
import torch
from torch import nn

import rheostat


def make_net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )


model = rheostat.adopt(make_net, "oats", image=(3, 32, 32))
model.save("mine.safetensors")
again = rheostat.load("mine.safetensors", net=make_net)
print(again(torch.rand(2, 3, 32, 32), rheostat.Point(robustness=0.5, width=0.5)).shape)
```

A file holds the weights, the composition, the preprocessing, a description of the architecture and its hash. It does
not hold the network's code, so `load` takes what makes the module: a function, its name, or a timm name with plain
arguments. Every command that loads a model has `--net package.module:function` (or
`--net "timm:resnet18(num_classes=10)"`) for the same purpose. A file may name what made it, and that name is never
imported, with one exception: a timm name with plain arguments is followed, without pretrained weights. Another
architecture is refused, and the message says where it differs.

**Exits** follow layers by name: `adopt(module, "rdi", image=..., exits=("layer1", "layer2"))`. By default they follow
the last layer of every resolution, except a stem of one convolution and the network's end. A wrong name lists the
layers that an exit can follow.

**Norms.** Batch norms get banks of statistics and affine parameters. Layer and group norms have no batch statistics;
`dual` gives them two sets of affine parameters, and FiLM modulates them as it does batch norms.

**Linear layers** inside the network are treated by noise and masks as convolutions are. The last one, whose outputs are
the classes, is not.

**What is refused** is named with the reason: a forward that does something else in training than its layers say
(stochastic depth, functional dropout), convolutions whose weights are computed in each pass, PyTorch's own attention
layer with dropout, norms over several dimensions, and transposed convolutions.

## What works
"""
COLUMNS = ("dual", "film", "noise", "masks", "slim", "exits")
MEANING = """
*Works* means: at rest the model gives the logits of timm's own network to 1e-5 of the largest (networks with masks
excepted, which are sparse), a turned dial gives other logits (`dual` and `film` excepted, which start with equal sets),
and a folded point equals the model to 1e-5. ONNX files were compared with the model to 1e-4 for every method on
ResNet-18 and ConvNeXt-atto, and for FiLM on all networks. `film` is OAT (with `dual`), `noise` FLOAT, `masks` FLOATS,
`slim` widths 0.5, 0.75 and 1, `exits` RDI-Nets with light heads. Images are 64×64, and the hidden layer of VGG's
classifier has 256 features. Networks are untrained: this table is about computing the right thing, and says nothing
about accuracy.
"""


def page(rows: list[Row], speed: list[Row]) -> str:
    """The whole page."""
    return "\n".join([HEAD, coverage(rows), MEANING, refusals(rows), timings(speed)]).rstrip("\n") + "\n"


def coverage(rows: list[Row]) -> str:
    """Networks by methods."""
    found = {(r["net"], r["method"]): r for r in rows}
    nets = list(dict.fromkeys(r["net"] for r in rows))
    cells = [[f"`{n}`", *("works" if found[n, m]["works"] else "refused" for m in COLUMNS)] for n in nets]
    return table(["timm network", *COLUMNS], cells)


def refusals(rows: list[Row]) -> str:
    """The sentence of every refusal, with the networks that get it."""
    lines = ["## What is refused, in the words of the error\n"]
    for row in rows:
        if not row["works"]:
            lines.append(f"- `{row['net']}`, {row['method']}: {row['why']}.")
    return "\n".join(lines) + "\n"


def timings(speed: list[Row]) -> str:
    """What adoption costs in time."""
    body = [
        [
            r["name"],
            f"{r['ratio']['median']:.3f} [{r['ratio']['low']:.3f}, {r['ratio']['high']:.3f}]",
            f"≤ {r['bar']:g}: {'met' if r['ratio']['median'] <= r['bar'] else 'not met'}",
            str(r["n"]),
        ]
        for r in speed
    ]
    head = (
        "## What adoption costs in time\n\nThe same ResNet-18, written in plain PyTorch and adopted, over ours; "
        "measured in turns by `benchmarks/measure/adopted_speed.py`, medians and quartiles of processor time"
        f"{', one thread' if all(r['hardware']['threads'] == 1 for r in speed) else ''}.\n"
    )
    return f"{head}\n{table(['what', 'ratio', 'bar', 'pairs'], body)}"
