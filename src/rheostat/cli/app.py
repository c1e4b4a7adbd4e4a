"""The command line: names → functions, no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rheostat.cli import benchmark as cli_benchmark
from rheostat.cli import demo as cli_demo
from rheostat.cli import deploy as cli_deploy
from rheostat.cli import listing as cli_listing
from rheostat.cli import playground as cli_playground
from rheostat.cli import publishing as cli_publishing
from rheostat.cli import queue as cli_queue
from rheostat.cli import rows as cli_rows
from rheostat.cli import serving as cli_serving
from rheostat.cli import training as cli_training
from rheostat.cli import tune as cli_tune
from rheostat.cli.deploy import DataDir, Network, Threads, Verify, set_threads
from rheostat.cli.measuring import asked_precision, measure, numbers
from rheostat.runtime.terminal import visible

app = typer.Typer(
    name="rheostat",
    help="Train one classifier; dial accuracy, adversarial robustness and compute afterwards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: rheostat demo",
)
app.registered_commands += cli_demo.app.registered_commands


def _version(asked: bool) -> None:
    if asked:
        from rheostat import __version__

        print(f"rheostat {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Train one classifier; dial accuracy, adversarial robustness and compute afterwards."""


@app.command(epilog="Example: rheostat evaluate runs/shop --at robustness=0:1:0.1 --tier standard --examples 500")
def evaluate(
    subject: Annotated[str, typer.Argument(help="Run folder, model file, packaged name, or package.module:factory.")],
    at: Annotated[str, typer.Option(help="Points: robustness=0:1:0.1, or lists; default the dial in 11 steps.")] = "",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="pgd20, pgd50x5, pgd20-dlr, fgsm, mi-fgsm, apgd-ce, apgd-t, square, autoattack; "
            "may be repeated for a worst case. Replaces --tier."
        ),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            help="quick (PGD-20; the default), standard (adds APGD, targeted APGD, Square) or full (adds AutoAttack)."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set; default the model's own.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in [0, 1], or 8/255; default the model's.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2; default the model's.")] = None,
    step_size: Annotated[str | None, typer.Option(help="Default 2.5·eps/steps.")] = None,
    between: Annotated[
        str | None, typer.Option(help="Measure at the λ of training: at-0, at-0.1, at-0.5, at-0.6 or blend.")
    ] = None,
    split: Annotated[str, typer.Option(help="test, calibrate-fit or calibrate-choose.")] = "test",
    examples: Annotated[
        int | None, typer.Option(help="Size of the stratified, seeded subset to measure on; default all.", min=1)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Rows file; default the run's.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name in rows.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random starts.")] = 0,
    transfer: Annotated[
        bool,
        typer.Option(
            "--transfer",
            help="Also score images made at every other point, and attackers who do not know or who choose the point.",
        ),
    ] = False,
    warm: Annotated[
        bool, typer.Option("--warm", help="First try the adversarial images of earlier points, unchanged.")
    ] = False,
    probe: Annotated[
        bool | None, typer.Option(help="Run checks that need more attacks; default in all tiers except quick.")
    ] = None,
    attack_precision: Annotated[
        str,
        typer.Option(
            help="Precision of attack gradients: fp32, bf16 or auto (bf16 if native). Images are scored in fp32."
        ),
    ] = "fp32",
    precision: Annotated[
        str,
        typer.Option(
            help="bf16 (OpenVINO), int8 (ONNX Runtime) or int8-openvino: judge each point as the file that is served, "
            "under PGD-20 transferred from fp32 and Square on the file."
        ),
    ] = "fp32",
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Measure SA under corruptions (noise, blur, fog), without attacks.")
    ] = False,
    severities: Annotated[str | None, typer.Option(help="Severities of corruptions, 1 to 5; default 1,3,5.")] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Repeat finished measurements; drop this run's rows of another model or other data."
        ),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if a flag is raised.")] = False,
    net: Network = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    verify: Verify = True,
) -> None:
    """Measure a model at points under attacks, and write rows with intervals. Finished points are not repeated.

    A killed evaluation continues where it stopped. Under torchrun the ranks share the images.
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
        corruptions=corruptions,
        severities=numbers(severities, "--severities"),
    )
    options = EvaluationOptions(
        split=split,
        out=out,
        name=name,
        seed=seed,
        warm=warm,
        transfer=transfer,
        probing=probe,
        attack_precision=asked_precision(attack_precision),
        fresh=fresh,
    )
    rows = measure(request, options, precision=precision)
    leave()
    raised = sorted({flag for row in rows for flag in row.flags})
    if strict and raised:
        fail(f"raised: {', '.join(raised)} (docs/evaluation.md says what to do)", 3)


app.registered_commands += cli_training.app.registered_commands
app.registered_commands += cli_listing.app.registered_commands
app.registered_commands += cli_rows.app.registered_commands
app.registered_commands += cli_deploy.app.registered_commands
app.registered_commands += cli_benchmark.app.registered_commands
app.registered_commands += cli_publishing.app.registered_commands
app.registered_commands += cli_queue.app.registered_commands
app.registered_commands += cli_tune.app.registered_commands
app.registered_commands += cli_serving.app.registered_commands
app.registered_commands += cli_playground.app.registered_commands

LONGEST = 2000
"""The most characters of a message; text from a file may have millions."""
INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM: 128 + SIGINT."""
# Newer versions of Typer include a copy of Click; either way this is its UsageError.
UsageError: Any = typer.BadParameter.__mro__[1]


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line on standard error and exit with a code."""
    line = visible(" ".join(message[:LONGEST].split()))
    print(f"rheostat: {line}{'…' if len(message) > LONGEST else ''}", file=sys.stderr)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake gives one line and exit code 2, never a traceback."""
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
