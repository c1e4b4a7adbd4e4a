"""Milliseconds of one network in every form in which it can be served → results/runtimes.jsonl.

`python benchmarks/measure/runtimes.py` on an idle machine, with the extras deploy and openvino. Networks have random
weights, which do not change times. Forms take turns, in fp32 unless their name says otherwise; int8 files are quantised
by ONNX Runtime and run by both runtimes. A file's gap is its largest difference from the model in any logit, as a share
of the largest logit. bf16 appears where the chip multiplies it natively.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from rheostat import nets
from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.deploy.quantising import quantise
from rheostat.methods import Dual, Masks, Slim, Stack
from rheostat.models.artifact import About, versions
from rheostat.models.costs import latency, observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.results.timings import merge_timings
from rheostat.runtime.allocator import keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results" / "runtimes.jsonl"
NETS: dict[str, Callable[[], nets.Net]] = {
    "ResNet-20": lambda: nets.resnet(depth=20),
    "ResNet-18": lambda: nets.resnet(depth=18),
    "MobileNetV2": lambda: nets.mobilenet_v2(),
}
PARTS: dict[str, tuple[Stack, Point]] = {
    "whole": (Stack(Dual()), Point(robustness=1.0)),
    "width 0.75": (Stack(Dual(), Slim()), Point(robustness=1.0, width=0.75)),
    "width 0.5": (Stack(Dual(), Slim()), Point(robustness=1.0, width=0.5)),
    "channels 0.3 cut out": (Stack(Dual(), Masks(density=0.3, structure="channel")), Point(robustness=1.0)),
}
"""The parts of a network that are served: methods that give them, and the point."""
BATCHES = (1, 32, 256)


def forms(model: Tunable, point: Point, folder: Path, threads: int) -> dict[str, nn.Module]:
    """The model at a point as a module in eager PyTorch, folded, and under each runtime and precision."""
    about = About(classes=tuple(str(i) for i in range(model.net.classes)), threat={}, provenance={})
    file = folder / "x.onnx"
    export(model, about, file, at=point)
    small = quantise(file, folder / "q.onnx", torch.rand(128, *model.net.image))
    folded = fold(model, point).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: dict[str, nn.Module] = {"eager": model.to_layout(torch.channels_last).at(point), "folded": folded}

    def opened(path: Path, **how: object) -> SessionModule:
        return SessionModule(Session(path, threads=threads, spin=False, **how))  # type: ignore[arg-type]

    found["ONNX Runtime"] = opened(file)
    found["ONNX Runtime int8"] = opened(small)
    found["OpenVINO"] = opened(file, runtime="openvino")
    low = opened(file, runtime="openvino", precision="auto")
    if low.session.precision == "bf16":
        found["OpenVINO bf16"] = low
    found["OpenVINO int8"] = opened(small, runtime="openvino")
    return found


def measured(net: str, part: str, batches: tuple[int, ...], seconds: float, threads: int) -> list[dict[str, object]]:
    """One row for each size of batch, of one part of one network."""
    torch.manual_seed(0)
    stack, point = PARTS[part]
    model = Tunable(NETS[net](), stack)
    model.method.finish(model.net)
    cost = observe(model, model.net.image, point)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        every = forms(model, point, Path(folder), threads)
        x = torch.rand(32, *model.net.image)
        expected = every["eager"](x)
        gaps = {k: float((m(x) - expected).abs().max() / expected.abs().max()) for k, m in every.items()}
        rows = []
        for batch in batches:
            times = latency(every, model.net.image, batch=batch, seconds=seconds)
            shown = ", ".join(f"{k} {v.median:.2f}" for k, v in times.items())
            print(f"{net}, {part}, batch {batch}: {shown} ms", flush=True)
            rows.append(
                {
                    "name": f"{net}, {part}",
                    "net": net,
                    "part": part,
                    "batch": batch,
                    "milliseconds": {k: asdict(v) for k, v in times.items()},
                    "gaps": gaps,
                    "macs": cost.macs,
                    "seed": 0,
                    "hardware": hardware(torch.device("cpu")),
                    "versions": versions(),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="per form and size of batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--net", action="append", choices=list(NETS), help="default: all")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="default: all")
    parser.add_argument("--batch", action="append", type=int, help="default: 1, 32 and 256")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    batches = tuple(options.batch or BATCHES)
    for net in options.net or NETS:
        for part in options.part or PARTS:
            rows = measured(net, part, batches, options.seconds, options.threads)
            merge_timings(options.out, rows, key=("name", "batch"))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
