"""Every composition on every network, folded and exported: parity and latency.

`python benchmarks/measure/exports.py` on an idle machine. The robust end of each model (the last exit, width 1)
is folded and written as ONNX; the folded module is timed in turn with the plain backbone folded the same
way, the model itself and ONNX Runtime. Rows go to results/exports.jsonl.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from rheostat import nets
from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.methods.composition import COMPOSITIONS, compose
from rheostat.models.artifact import About, versions
from rheostat.models.costs import latency, observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.results.timings import write_timings
from rheostat.runtime.allocator import keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results" / "exports.jsonl"
NETS: dict[str, Callable[[], nets.Net]] = {
    "SmallCNN": lambda: nets.small_cnn(image=(1, 28, 28)),
    "ResNet-20": lambda: nets.resnet(depth=20, base_width=16),
    "ResNet-18": lambda: nets.resnet(depth=18, base_width=32),
    "ResNet-50": lambda: nets.resnet(depth=50, base_width=16),
    "WRN-16-2": lambda: nets.wide_resnet(depth=16, widen=2),
    "MobileNetV2": lambda: nets.mobilenet_v2(width=0.5),
}


def robust_end(model: Tunable) -> Point:
    """Most robust, widest, deepest, and no exit live."""
    return Point(**({"robustness": 1.0} if "robustness" in model.dials else {}))


def measured(paper: str, net: str, plain: nn.Module, seconds: float) -> dict[str, object]:
    """One composition on one network."""
    torch.manual_seed(0)
    model = Tunable(NETS[net](), compose(paper))
    model.method.finish(model.net)
    with torch.no_grad():
        for parameter in model.parameters():
            # Off their initial values: a last layer of zeros would make every file equal.
            parameter.add_(0.05 * torch.randn_like(parameter))
    point = robust_end(model)
    folded = fold(model, point)
    about = About(classes=tuple(str(i) for i in range(10)), threat={}, provenance={})
    x = torch.rand(8, *model.net.image)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "x.onnx"
        export(model, about, file, at=point, images=x)
        session = SessionModule(Session(file, threads=torch.get_num_threads()))
        expected = model(x, point)
        gaps = [float((m(x) - expected).abs().max() / expected.abs().max()) for m in (folded, session)]
        model.to_layout(torch.channels_last)
        forms: dict[str, nn.Module] = {
            "folded": folded.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            "plain": plain,
            "eager": model.at(point),
        }
        # ONNX Runtime's threads go on spinning for a while: it is timed apart from the others.
        times = {
            b: latency(forms, model.net.image, batch=b, seconds=seconds)
            | latency({"ONNX Runtime": session}, model.net.image, batch=b, seconds=seconds / 4)
            for b in (1, 32)
        }
    cost = observe(model, model.net.image, point)
    row: dict[str, object] = {
        "composition": paper,
        "net": net,
        "point": point.numbers(),
        "folded_gap": gaps[0],
        "onnx_gap": gaps[1],
        "ratio": {b: t["folded"].median / t["plain"].median for b, t in times.items()},
        "milliseconds": {b: {k: v.median for k, v in t.items()} for b, t in times.items()},
        "params": cost.params,
        "macs": cost.macs,
        "seed": 0,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    shown = " ".join(f"{k} {v.median:.2f}" for k, v in times[32].items())
    print(
        f"{paper:>14} × {net:<12} ratio {times[1]['folded'].median / times[1]['plain'].median:.3f} "
        f"{times[32]['folded'].median / times[32]['plain'].median:.3f}  gaps {gaps[0]:.1e} {gaps[1]:.1e}  "
        f"batch 32: {shown} ms",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="per module and batch size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--net", action="append", choices=list(NETS), help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    rows = []
    for net in options.net or NETS:
        torch.manual_seed(0)
        plain = fold(Tunable(NETS[net](), compose("pgd-at"))).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rows += [measured(paper, net, plain, options.seconds) for paper in COMPOSITIONS.names()]
    write_timings(options.out, rows)


if __name__ == "__main__":
    main()
