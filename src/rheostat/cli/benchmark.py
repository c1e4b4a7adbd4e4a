"""The command `bench`: the cost of each point on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rheostat.cli.deploy import File, Network, Threads, set_threads
from rheostat.cli.terminal import console

app = typer.Typer()


@app.command(epilog="Example: rheostat bench runs/shop --seconds 0.1")
def bench(
    file: File,
    at: Annotated[str, typer.Option(help="Points; default the stored ones, else the dials' ends.")] = "",
    compiled: Annotated[bool, typer.Option("--compiled", help="Also measure torch.compile (slow to start).")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also time int8 under each runtime; default if a stored point is in int8.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Seconds per form and batch size.", min=0.05)] = 0.5,
    net: Network = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the times to a file for choose and serve --costs.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Measure the cost of each point on this machine: counts, latency and throughput in every form."""
    from rheostat.cli.progress import Show
    from rheostat.deploy.latency import as_rows
    from rheostat.deploy.latency import bench as measure
    from rheostat.deploy.leaving import measured_shares, stored_shares, unknown_line, without_shares
    from rheostat.deploy.named_points import own_rows, rows_path
    from rheostat.deploy.precisions import SERVED, precision_of
    from rheostat.models import artifact
    from rheostat.points.grid import parse_grid
    from rheostat.points.point import Point

    set_threads(threads)
    model, about = artifact.load_with(file, net=net)
    model.to("cpu")  # the factory of a network may put it on a GPU
    points = parse_grid(at) if at else list(model.points.values())
    if not points:
        dial = model.dials.get("robustness")
        points = [Point()] if dial is None else [Point(robustness=v) for v in (dial.low, dial.high)]
    table = Table(box=None, pad_edge=False)
    for head in (
        "point",
        "form",
        "params",
        "non-zeros",
        "MB",
        "M MACs",
        "ms p50/p99, batch 1",
        "ms p50/p99, batch 32",
        "images/s",
    ):
        table.add_column(head, justify="left" if head in ("point", "form") else "right")
    int8 = int8 or any(SERVED[precision_of(numbers)].quantised for numbers in about.measured.values())
    every = [model.complete(p) for p in points]
    digest = artifact.digest(file)
    shares = measured_shares(own_rows(rows_path(file), digest)) | stored_shares(model, about)
    with Show(console) as show:
        measured = measure(
            model, about, every, seconds=seconds, compiled=compiled, int8=int8, shares=shares, report=show
        )
    for c in measured:
        table.add_row(
            c.point.label(),
            c.form,
            f"{c.params:,}",
            f"{c.nonzeros:,}",
            f"{c.bytes / 1e6:.2f}",
            f"{c.macs / 1e6:.2f}",
            *(f"{c.p50[b]:.2f} / {c.p99[b]:.2f}" for b in (1, 32)),
            f"{c.images_per_second:,.0f}",
        )
    console.print(table)
    if unknown := without_shares(model, every, shares):
        console.print(unknown_line(p.label() for p in unknown), markup=False)
    if out is not None:
        from rheostat.results.timings import write_timings

        write_timings(out, as_rows(measured, digest))
        console.print(f"wrote {out}", markup=False)
