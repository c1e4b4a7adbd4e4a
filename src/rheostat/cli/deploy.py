"""The commands of deployment: choose, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rheostat.cli.terminal import console

app = typer.Typer()
DataDir = Annotated[Path | None, typer.Option(help="Folder of data sets; default RHEOSTAT_DATA, then the cache.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", min=1, max=1024)]
Verify = Annotated[bool, typer.Option(help="Check published checksums of data files.")]
Network = Annotated[
    str | None,
    typer.Option("--net", help="Factory of an adopted model's network: package.module:function or timm:NAME(...)."),
]
File = Annotated[str, typer.Argument(help="A model file, a run's folder or a packaged name.")]


def set_threads(count: int | None) -> None:
    """Set the number of torch's CPU threads, if one is given."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


@app.command(epilog="Example: rheostat choose runs/shop --min-robust 0.4 --max-macs 20M --name safe")
def choose(
    run: Annotated[str, typer.Argument(help="A run's folder, or a model file with --rows.")],
    min_robust: Annotated[float | None, typer.Option(help="Minimum robust accuracy (RA), 0 to 1.")] = None,
    min_clean: Annotated[float | None, typer.Option(help="Minimum standard accuracy (SA), 0 to 1.")] = None,
    max_macs: Annotated[str | None, typer.Option(help="Maximum MACs per image: 20M, 1.5G.")] = None,
    max_latency: Annotated[
        str | None, typer.Option(help="Maximum time for one image, folded, on this machine: 5ms.")
    ] = None,
    maximise: Annotated[
        str,
        typer.Option(
            help="Goal: the highest clean or robust accuracy, balanced (much of both), or the lowest macs or latency."
        ),
    ] = "clean",
    confidence: Annotated[float, typer.Option(help="Confidence at which all bounds hold simultaneously.")] = 0.95,
    name: Annotated[str | None, typer.Option(help="Store the point in the model's file: safe, balanced, fast.")] = None,
    ladder: Annotated[
        str,
        typer.Option(help="Choose a ladder for a server, in all measured precisions; store it as safe,balanced,fast."),
    ] = "",
    costs: Annotated[
        Path | None, typer.Option(help="Times of a ladder, written by `rheostat bench --out`; default measure them.")
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="Rows file; default the run's.")] = None,
    net: Network = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    verify: Verify = True,
) -> None:
    """Choose an operating point from rows on calibrate-choose, by confidence bounds; exit 1 if none qualifies."""
    from rheostat.deploy.choosing import Need
    from rheostat.deploy.named_ladders import Sources, choose_ladder_points, ladder_lines, serve_command
    from rheostat.deploy.named_points import choice_lines, choose_point, store_point, store_points
    from rheostat.models import artifact
    from rheostat.runtime.quantities import quantity

    set_threads(threads)
    need = Need(
        min_robust,
        min_clean,
        None if max_macs is None else quantity(max_macs, "", "macs"),
        None if max_latency is None else quantity(max_latency, "ms", "latency"),
    )
    names = [n for n in ladder.split(",") if n]
    if costs is not None and not names:
        raise ValueError("--costs holds the times of a ladder; give --ladder too")
    if names and name is not None:
        raise ValueError("--name stores one point, --ladder several; give only one of them")
    for given in [*names, *([] if name is None else [name])]:
        artifact.check_nameable(run, given)
    if names:
        if len(set(names)) != len(names):
            raise ValueError(f"the names of a ladder must differ, given {ladder}")
        sources = Sources(run, rows, costs, net)
        ladder_of = choose_ladder_points(sources, need, maximise=maximise, steps=len(names), confidence=confidence)
        steps = ladder_of.choice
        used = [*names[: len(steps.points) - 1], names[-1]]
        for line in ladder_lines(steps, used, ladder_of.notes):
            console.print(line, markup=False)
        store_points(run, dict(zip(used, steps.points, strict=True)), steps, data_dir=data_dir, verify=verify, net=net)
        console.print(f"stored; serve them: {serve_command(sources, ladder_of, used)}", markup=False)
        return
    found = choose_point(run, need, maximise=maximise, confidence=confidence, rows=rows, net=net)
    for line in choice_lines(found):
        console.print(line, markup=False)
    if found.chosen is None:
        sys.exit(1)
    if name is not None:
        stored = store_point(run, name, found.chosen, found, data_dir=data_dir, verify=verify, net=net)
        console.print(
            f"stored as {name!r}: model.at({name!r}); temperature {stored['temperature']:.2f}, ECE "
            f"{100 * stored['ece_before']:.1f} → {100 * stored['ece_after']:.1f} %"
        )


@app.command(epilog="Example: rheostat export runs/shop --at safe --out safe.onnx")
def export(
    file: File,
    at: Annotated[str, typer.Option(help="A stored name, or dials: robustness=1 width=0.5.")] = "",
    to: Annotated[str, typer.Option(help="onnx or torch.")] = "onnx",
    dial: Annotated[str, typer.Option(help="folded, or live (robustness is an input).")] = "folded",
    out: Annotated[Path | None, typer.Option(help="File to write; default NAME.onnx in this folder.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also quantise to int8, and measure SA and RA again (needs the data).")
    ] = False,
    examples: Annotated[int, typer.Option(help="Images on which int8 is measured.", min=10)] = 300,
    net: Network = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    verify: Verify = True,
) -> None:
    """Export a point as a file for other runtimes, with metadata; the file is compared with the model.

    A stored point that was chosen in int8 or int8-openvino gives its int8 file.
    """
    from rheostat.deploy.exporting import TARGETS, describe
    from rheostat.deploy.exporting import export as write
    from rheostat.deploy.precisions import SERVED, precision_of, stored_int8
    from rheostat.deploy.quantising import write_described
    from rheostat.models import artifact
    from rheostat.runtime.choices import check_choice

    set_threads(threads)
    check_choice("export", "dial", dial, ("folded", "live"))
    check_choice("export", "target", to, TARGETS)
    model, about = artifact.load_with(file, net=net)
    model.to("cpu")  # the factory of a network may put it on a GPU
    point = _point(model, at)
    halves = _halves(file, net, examples, data_dir, verify) if int8 else None  # before a file is written
    stem = Path(file).resolve().stem if not Path(file).is_dir() else Path(file).resolve().name
    name = out or Path(f"{stem}{'-live' if dial == 'live' else f'-{at}' if at in model.points else ''}{TARGETS[to]}")
    own = artifact.digest(file)
    precision = precision_of(about.measured.get(at, {}))
    quantised = SERVED[precision].quantised
    as_chosen = (dial, to) == ("folded", "onnx") and not (int8 and quantised)
    if as_chosen and quantised:
        # The stored file was made before the point had its name, its numbers and its temperature.
        kept = stored_int8(artifact.locate(file), at, model.points[at], artifact=own)
        entry = describe(model, about, model.points[at], at, own, precisions=(precision,)) | {"quantised": "int8"}
        paths = [write_described(kept, name, entry)]
    else:
        paths = write(model, about, name, at=point, to=to, live=dial == "live", artifact=own)
    if dial == "live" and at in about.measured:
        console.print(f"the numbers of {at!r} hold for one point, so a file with a live dial states none", markup=False)
    elif precision != "fp32":
        numbers = f"its numbers hold for {precision} alone"
        stated = "" if as_chosen else ": this file is in fp32 and states none of them"
        console.print(f"{at!r} was chosen in {precision}, and {numbers}{stated}", markup=False)
    for path in paths:
        console.print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)", markup=False)
    if halves is not None:
        _int8(model, point, paths[0], halves, about.threat)


def _point(model: Any, at: str) -> Any:
    from rheostat.points.grid import parse_grid
    from rheostat.points.point import Point

    if not at:
        return Point()
    if "=" not in at:
        return at
    found = parse_grid(at)
    if len(found) != 1:
        raise ValueError(f"export takes one point, given {len(found)} points in {at!r}")
    return found[0]


def _halves(file: str, net: str | None, examples: int, data_dir: Path | None, verify: bool) -> tuple[Any, Any]:
    """The images that give the ranges of int8, and those on which it is measured."""
    from rheostat.deploy.precisions import CALIBRATED_ON
    from rheostat.deploy.quantising import IN_PYTHON
    from rheostat.evaluation.lookup import find_data, find_target

    target = find_target(file, name=None, between=None, net=net)
    fit, test = (
        find_data(target, None, split, data_dir=data_dir, examples=n, verify=verify, otherwise=IN_PYTHON)
        for split, n in (("calibrate-fit", CALIBRATED_ON), ("test", examples))
    )
    return fit, test


def _int8(model: Any, point: Any, path: Path, halves: tuple[Any, Any], threat: Any) -> None:
    from rheostat.cli.progress import Show
    from rheostat.data import to_pixels
    from rheostat.deploy.quantising import measured_again, quantise

    fit, test = halves
    made = quantise(path, path.with_name(f"{path.stem}-int8.onnx"), to_pixels(fit.images))
    with Show(console) as show:
        found = measured_again(
            model, model.at(point).point, made, test, eps=threat["eps"], norm=threat["norm"], report=show
        )
    console.print(f"wrote {made} ({made.stat().st_size / 1e6:.2f} MB)", markup=False)
    console.print(
        f"float SA {100 * found['float_clean_accuracy']:.1f} RA {100 * found['float_robust_accuracy']:.1f} → int8 SA "
        f"{100 * found['clean_accuracy']:.1f} RA {100 * found['robust_accuracy']:.1f} (the lower of the float model's "
        f"PGD-20 transferred, {100 * found['robust_accuracy_transfer']:.1f}, and Square, "
        f"{100 * found['robust_accuracy_square']:.1f}; n {found['n']}). int8 hides gradients; it does not make robust."
    )
