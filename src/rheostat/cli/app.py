"""The command line: names → functions, no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Table

from rheostat.cli import deploy as cli_deploy
from rheostat.cli import queue as cli_queue
from rheostat.cli import rows as cli_rows
from rheostat.cli import serving as cli_serving
from rheostat.cli import training as cli_training
from rheostat.cli import tune as cli_tune
from rheostat.cli.deploy import DataDir, Network, Threads, Verify, set_threads
from rheostat.cli.terminal import console
from rheostat.runtime.terminal import visible

if TYPE_CHECKING:
    from rheostat.evaluation.lookup import Request
    from rheostat.evaluation.options import EvaluationOptions
    from rheostat.results.row import Row

app = typer.Typer(
    name="rheostat",
    help="Train one classifier; dial accuracy, adversarial robustness and compute afterwards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("runs/demo"),
    data_dir: DataDir = None,
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing.")] = False,
) -> None:
    """Train OAT on the embedded digits, turn the dial, measure every position, write a report."""
    from rheostat.cli.progress import Show
    from rheostat.evaluation.lookup import Request
    from rheostat.evaluation.options import EvaluationOptions
    from rheostat.training.loop import train as run
    from rheostat.training.recipe import load_recipe

    recipe = load_recipe("oat-digits")
    set_threads(threads or recipe.device.threads)
    console.print(f"OAT on the embedded digits: {recipe.train.epochs} epochs, one model for every λ.")
    with Show(console) as show:
        run(recipe, out=out, folder=data_dir, fresh=fresh, report=show)
    _measure(Request(str(out), data_dir=data_dir), EvaluationOptions(fresh=fresh))
    _measure(Request(str(out), "robustness=0,0.1,0.2,0.5,1", between="at-0", data_dir=data_dir), EvaluationOptions())
    cli_rows.write([out], out)


@app.command()
def evaluate(
    subject: Annotated[str, typer.Argument(help="Run folder, model file, packaged name, or package.module:factory.")],
    at: Annotated[str, typer.Option(help="Points: robustness=0:1:0.1, or lists; default the dial in 11 steps.")] = "",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="pgd20, pgd50x5, pgd20-dlr, fgsm, mi-fgsm, apgd-ce, apgd-t, square, autoattack; "
            "several make a worst case. Instead of --tier."
        ),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            help="quick (PGD-20; the default), standard (and APGD, targeted APGD, Square) or full (and AutoAttack)."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set; default the model's own.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in [0, 1], or 8/255; default the model's.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2; default the model's.")] = None,
    step_size: Annotated[str | None, typer.Option(help="Default 2.5·eps/steps.")] = None,
    between: Annotated[
        str | None, typer.Option(help="Measure at training λ by a norm rule: at-0, at-0.1, at-0.5, at-0.6, blend.")
    ] = None,
    split: Annotated[str, typer.Option(help="test, calibrate-fit or calibrate-choose.")] = "test",
    examples: Annotated[int | None, typer.Option(help="A stratified, seeded subset.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="Rows file; default the run's.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name in rows.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random starts.")] = 0,
    transfer: Annotated[
        bool,
        typer.Option(
            "--transfer",
            help="Also score images made at every other point, and attackers who do not know the "
            "point, or may choose it.",
        ),
    ] = False,
    warm: Annotated[
        bool, typer.Option("--warm", help="Try images found at the points before, as they are, first.")
    ] = False,
    probe: Annotated[
        bool | None, typer.Option(help="Checks that cost attacks of their own; default in all tiers but quick.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure anew what is there; drop its rows of another model or other data.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 where a flag is raised.")] = False,
    net: Network = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    verify: Verify = True,
) -> None:
    """Measure a model: points × attacks → rows with intervals. Finished points are not repeated.

    A killed evaluation goes on where it was. Under torchrun the ranks share the images.
    """
    from rheostat.evaluation.lookup import Request
    from rheostat.evaluation.options import EvaluationOptions
    from rheostat.runtime.distributed import leave

    set_threads(threads)
    request = Request(
        subject,
        at,
        tuple(attack or ()),
        tier=tier,
        data=data,
        eps=eps,
        norm=norm,
        step_size=step_size,
        between=between,
        examples=examples,
        data_dir=data_dir,
        device=device,
        verify=verify,
        net=net,
    )
    options = EvaluationOptions(
        split=split, out=out, name=name, seed=seed, warm=warm, transfer=transfer, probing=probe, fresh=fresh
    )
    rows = _measure(request, options)
    leave()
    raised = sorted({flag for row in rows for flag in row.flags})
    if strict and raised:
        fail(f"raised: {', '.join(raised)} (docs/evaluation.md says what to do)", 3)


def _measure(request: Request, options: EvaluationOptions) -> list[Row]:
    from rheostat.cli.progress import Show
    from rheostat.evaluation.lookup import measure
    from rheostat.results.labels import attacker_lines, gap_lines

    with Show(console) as show:
        rows = measure(request, options, report=show)
    if rows:
        console.print(_table(rows))
        for line in [*gap_lines(rows), *attacker_lines(rows)]:
            console.print(line, markup=False)
    return rows


def _table(rows: list[Row]) -> Table:
    from rheostat.results.labels import percent, point_label, worst_rows

    table = Table(box=None, pad_edge=False)
    for head in ("point", "SA % [95 %]", "RA % [95 %]", "MACs", "split", "n", "flags"):
        table.add_column(head, justify="left" if head in ("point", "split", "flags") else "right")
    for row in worst_rows(rows):
        table.add_row(
            point_label(row),
            percent(row.clean_accuracy, row.interval.clean),
            percent(row.robust_accuracy, row.interval.robust),
            f"{row.macs.mean / 1e6:.2f} M",
            row.split,
            str(row.n),
            ", ".join(row.flags) or "–",
        )
    return table


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe's file.")] = None) -> None:
    """List the recipes that come with the package, or print one."""
    from importlib import resources

    from rheostat.training.recipe import load_recipe, names

    if name is not None:
        load_recipe(name)
        file = resources.files("rheostat.training") / "recipes" / f"{name}.toml"
        console.print(file.read_text(), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for head in ("recipe", "composition", "data", "about"):
        table.add_column(head)
    for found in names():
        recipe = load_recipe(found)
        table.add_row(found, recipe.paper, recipe.data.name, recipe.about)
    console.print(table)


@app.command()
def info(
    file: Annotated[str, typer.Argument(help="A model file, a run's folder or a packaged name.")], net: Network = None
) -> None:
    """Say what a model file holds: composition, dials, network, threat model, provenance."""
    import json

    from rheostat.models.artifact import digest, load_with

    model, about = load_with(file, net=net)
    count = sum(p.numel() for p in model.parameters())
    console.print(f"composition  {model.method!r}", markup=False)
    console.print(f"network      {json.dumps(model.net.spec)}", markup=False)
    console.print(f"parameters   {count:,}")
    for dial in model.dials.values():
        scale = "calibrated: t, about linear in RA" if model.dial_map else "training λ"
        where = dial.values or f"{dial.low:g} … {dial.high:g}"
        console.print(f"dial         {dial.name}: {where} ({scale})", markup=False)
    for name, point in model.points.items():
        console.print(f"point        {name}: {point.label()}", markup=False)
    console.print(f"threat       {json.dumps(about.threat)}", markup=False)
    short = {k: v for k, v in about.provenance.items() if k != "recipe"}
    console.print(f"provenance   {json.dumps(short)}", markup=False)
    console.print(f"hash         {digest(file)}")


app.registered_commands += cli_training.app.registered_commands
app.registered_commands += cli_rows.app.registered_commands
app.registered_commands += cli_deploy.app.registered_commands
app.registered_commands += cli_queue.app.registered_commands
app.registered_commands += cli_tune.app.registered_commands
app.registered_commands += cli_serving.app.registered_commands

LONGEST = 2000
"""The most characters of a message: what a file says may have millions."""
INTERRUPTED = 130
"""The exit code of what Ctrl-C or SIGTERM stopped: 128 + SIGINT."""
# Typer carries a copy of Click from some version on; either way this is its UsageError.
UsageError: Any = typer.BadParameter.__mro__[1]


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on standard error, and an exit code."""
    line = visible(" ".join(message[:LONGEST].split()))
    print(f"rheostat: {line}{'…' if len(message) > LONGEST else ''}", file=sys.stderr)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line and exit 2, never a traceback."""
    from rheostat.runtime.allocator import keep_freed_memory
    from rheostat.runtime.interrupts import Interrupted

    keep_freed_memory()
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, "")  # a factory's module may lie in the working directory, as with `python -m`
    try:
        code = app(args=arguments, standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except UsageError as error:
        fail(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        fail("stopped; what was written before is whole and is kept", INTERRUPTED)
    except Interrupted as stop:
        fail(str(stop), INTERRUPTED)
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or ''}: {error.strerror or error}")
    if code == INTERRUPTED:  # Typer swallows Ctrl-C and returns this
        fail("stopped; what was written before is whole and is kept", INTERRUPTED)
    if isinstance(code, int) and code:
        sys.exit(code)
