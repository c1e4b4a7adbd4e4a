"""Latency of real early exit in every runtime, against the same network without exits → results/exit-runtimes.jsonl.

`python benchmarks/measure/exit_runtimes.py RUN` on an idle machine, with the extras deploy and openvino; RUN is a model
with exits. In each runtime, three forms take turns on the same batches of test images: exits as they are used, exits
that no image takes (the most that an attack on cost can do), and the folded network without exits.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import tempfile
from pathlib import Path

import torch
from exit_latency import timed
from ratios import spread
from torch import Tensor, nn

from rheostat import data
from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.deploy.precisions import lacking
from rheostat.models.artifact import About, digest, load_with, versions
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.results.timings import merge_timings
from rheostat.runtime.allocator import keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results" / "exit-runtimes.jsonl"
BATCHES = (1, 32, 256)
GOALS = {32: 0.85, 256: 0.75}
"""The largest share of the static network's time, by size of batch."""
Forms = dict[str, nn.Module]


def points(model: Tunable) -> dict[str, Point]:
    """The points with exits and without, at the robust end."""
    at = Point(robustness=1.0) if "robustness" in model.dials else Point()
    return {"early exit": at.replace(exit=1.0), "static": at.replace(exit=0.0)}


def by_runtime(model: Tunable, about: About, folder: Path, threads: int) -> dict[str, Forms]:
    """Runtime → its forms: PyTorch, ONNX Runtime, and OpenVINO in fp32 and bf16 where the machine has them."""
    model.to_layout(torch.channels_last)
    wanted = {name: (model, point) for name, point in points(model).items()}
    never = copy.deepcopy(model)
    never.net.get_buffer("thresholds").fill_(-1.0)  # no uncertainty is below this
    wanted["no image leaves"] = (never, points(model)["early exit"])
    folded: Forms = {
        name: fold(of, point).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, (of, point) in wanted.items()
    }
    files = {}
    for name, (of, point) in wanted.items():
        files[name] = folder / f"{name.replace(' ', '-')}.onnx"
        export(of, about, files[name], at=point)

    def opened(**how: object) -> Forms:
        return {n: SessionModule(Session(f, threads=threads, spin=False, **how)) for n, f in files.items()}  # type: ignore[arg-type]

    found = {"PyTorch": folded, "ONNX Runtime": opened()}
    if importlib.util.find_spec("openvino") is not None:
        found["OpenVINO"] = opened(runtime="openvino")
    if not lacking("bf16"):
        found["OpenVINO bf16"] = opened(runtime="openvino", precision="bf16")
    return found


def in_turns(forms: Forms, parts: list[Tensor]) -> dict[str, list[float]]:
    """Seconds of every form on every batch; the order of the forms changes, so that none always finds a warm cache."""
    names = list(forms)
    out: dict[str, list[float]] = {name: [] for name in names}
    for part in parts[:3]:
        for run in forms.values():
            run(part)
    for number, part in enumerate(parts):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            out[name].append(timed(forms[name], part))
    return out


def exits_of(model: Tunable, test: data.Dataset) -> dict[str, object]:
    """Network, SA with exits and without, and the share of the images that takes each exit."""
    wanted = points(model)
    taken, right = [], dict.fromkeys(wanted, 0)
    for images, labels in zip(test.images.split(256), test.labels.split(256), strict=True):
        x = data.to_pixels(images)
        found = model.read(x, model.resolve(wanted["early exit"], x)).taken
        assert found is not None
        taken.append(found)
        for name in right:
            right[name] += int((model(x, wanted[name]).argmax(1) == labels).sum())
    shares = torch.cat(taken).bincount().double() / len(test)
    return {
        "net": model.net.spec,
        "examples": len(test),
        "clean_accuracy": {name: count / len(test) for name, count in right.items()},
        "taken": shares.tolist(),
    }


def measured(
    run: str, batch: int, images: Tensor, runtimes: dict[str, Forms], threads: int, taken: dict[str, object]
) -> list[dict[str, object]]:
    """A row for each runtime at one size of batch."""
    parts = [p for p in images.split(batch) if len(p) == batch][: 200 if batch == 1 else 40]
    rows = []
    for runtime, forms in runtimes.items():
        found = in_turns(forms, parts)
        row: dict[str, object] = {
            "name": Path(run).name,
            "runtime": runtime,
            "batch": batch,
            "n": len(parts),
            "threads": threads,
            "goal": GOALS.get(batch),
            "milliseconds": {k: 1e3 * statistics.median(v) for k, v in found.items()},
            "ratio": {
                k: spread([a / b for a, b in zip(found[k], found["static"], strict=True)])
                for k in ("early exit", "no image leaves")
            },
            **taken,
            "artifact": digest(run),
            "hardware": hardware(torch.device("cpu")),
            "versions": versions(),
            "seed": 0,
        }
        rows.append(row)
        shown = ", ".join(f"{k} {v['median']:.2f}" for k, v in row["ratio"].items())  # type: ignore[union-attr, attr-defined]
        print(f"{runtime}, batch {batch}: {shown} of static", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    model, about = load_with(options.run)
    _, test = data.load(about.provenance["dataset"], folder=options.data_dir)
    test = data.subset(test, options.images)
    images = data.to_pixels(test.images)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        runtimes = by_runtime(model, about, Path(folder), options.threads)
        taken = exits_of(model, test)
        for batch in BATCHES:
            rows = measured(options.run, batch, images, runtimes, options.threads, taken)
            merge_timings(options.out, rows, key=("name", "runtime", "batch"))


if __name__ == "__main__":
    main()
