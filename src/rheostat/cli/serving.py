"""The command `serve`: a model's points over HTTP."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rheostat.cli.deploy import DataDir, File, Network, Threads, set_threads
from rheostat.cli.terminal import console

app = typer.Typer()
MB = 2**20
"""Bytes of a megabyte in options."""


@app.command(epilog="Example: rheostat serve runs/shop --ladder safe,fast --target-ms 50")
def serve(
    file: File,
    host: Annotated[str, typer.Option(help="Address; beyond loopback the policy needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    ladder: Annotated[str, typer.Option(help="Points, preferred first: safe,balanced,fast. Default all stored.")] = "",
    target_ms: Annotated[
        float | None,
        typer.Option(help="Target response time; default 50, or five times the first point's time if that is more."),
    ] = None,
    controller: Annotated[
        str,
        typer.Option(
            help="goodput: the most correct answers in time, for each batch; slack: the best point that makes no "
            "request late; steps: a faster point after late batches."
        ),
    ] = "goodput",
    costs: Annotated[
        Path | None, typer.Option(help="Times written by `rheostat bench --out`; default measure them at the start.")
    ] = None,
    min_robust: Annotated[
        float | None,
        typer.Option(
            help="Minimum measured robust accuracy of a point. Default half of the first point's; 0 allows any."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Bearer tokens to change the policy, one per line; RHEOSTAT_TOKEN adds another.")
    ] = None,
    predict_token_file: Annotated[
        Path | None, typer.Option(help="Bearer tokens for predictions, one per line; default no token is required.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Require a token for /metrics and /v1/points.")] = False,
    open_policy: Annotated[
        bool, typer.Option("--open-policy", help="Allow policy changes without a token; loopback only.")
    ] = False,
    client_dial: Annotated[
        bool,
        typer.Option(
            "--allow-client-dial",
            help="Allow ?point=NAME, for experiments only: an attacker then chooses the weakest point.",
        ),
    ] = False,
    unmeasured: Annotated[
        bool, typer.Option("--unmeasured-points", help="Also serve t-0, t-0.5, t-1, which have not been measured.")
    ] = False,
    backend: Annotated[
        str, typer.Option(help="Runtime of points in fp32: auto (the fastest installed), onnx, openvino or torch.")
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16 (OpenVINO) or auto (bf16 if native and under OpenVINO, else fp32) for all points; without "
            "it, each point runs in the precision that it was measured in."
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File of the policy; default policy.json beside the model.")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Maximum images in a batch and in a request.", min=1)] = 64,
    queue: Annotated[int, typer.Option(help="Maximum images in the queue; beyond it 503.", min=1)] = 512,
    deadline_ms: Annotated[float, typer.Option(help="Maximum time to wait while filling a batch.", min=0)] = 5.0,
    request_seconds: Annotated[float, typer.Option(help="Maximum total time of a request.", min=0.1)] = 30.0,
    body_seconds: Annotated[float, typer.Option(help="Maximum time to receive a body.", min=0.1)] = 10.0,
    image_seconds: Annotated[float, typer.Option(help="Maximum time to decode one image.", min=0.05)] = 2.0,
    header_seconds: Annotated[float, typer.Option(help="Maximum time to receive headers.", min=0.1)] = 10.0,
    max_mb: Annotated[float, typer.Option(help="Maximum size of a body.", min=0.001)] = 8.0,
    max_mb_in_flight: Annotated[float, typer.Option(help="Maximum size of all bodies; beyond 503.", min=0.001)] = 128.0,
    max_connections: Annotated[int, typer.Option(help="Maximum connections; beyond it 503.", min=1)] = 1024,
    rate: Annotated[
        float | None, typer.Option(help="Maximum requests per second per client; beyond it 429.", min=0.01)
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Trust X-Forwarded-For from a proxy on this machine.")
    ] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log one line of JSON per request.")] = False,
    playground: Annotated[
        bool, typer.Option("--playground", help="Serve a page with sliders at /playground; loopback only.")
    ] = False,
    net: Network = None,
    threads: Threads = None,
    data_dir: DataDir = None,
) -> None:
    """Serve the stored points over HTTP. The policy picks the point; a request cannot name it."""
    import logging

    try:
        import uvicorn

        from rheostat.serve.app import make_app
        from rheostat.serve.connections import Connections, config
        from rheostat.serve.options import LOOPBACK, Options, check_host
    except ImportError as error:
        raise ValueError(f"serving needs {error.name}: pip install 'rheostat[serve]'") from None
    from rheostat.deploy.runtimes import as_precision
    from rheostat.models import artifact, zoo
    from rheostat.serve.backends import service
    from rheostat.serve.decoding import Limits
    from rheostat.serve.policy import Policy, default_target
    from rheostat.serve.stores import FileStore

    _check_finite(
        {
            "--deadline-ms": deadline_ms,
            "--request-seconds": request_seconds,
            "--body-seconds": body_seconds,
            "--image-seconds": image_seconds,
            "--header-seconds": header_seconds,
            "--max-mb": max_mb,
            "--max-mb-in-flight": max_mb_in_flight,
            "--rate": rate,
        }
    )
    if max_mb > max_mb_in_flight:
        raise ValueError(
            f"one body may have {max_mb:g} MB (--max-mb), but all bodies together only {max_mb_in_flight:g} MB "
            "(--max-mb-in-flight)"
        )
    set_threads(threads)
    place = artifact.locate(file)
    shipped = zoo.ships(place)
    options = Options(
        token=os.environ.get("RHEOSTAT_TOKEN"),
        open_policy=open_policy,
        client_dial=client_dial,
        store=FileStore(state or (Path("policy.json") if shipped else place.with_name("policy.json"))),
        poll=0.5,
        limits=Limits(int(max_mb * MB), max_images=max_batch, body_seconds=body_seconds, image_seconds=image_seconds),
        most=max_batch,
        queue=queue,
        deadline=deadline_ms / 1e3,
        token_file=token_file,
        predict_token_file=predict_token_file,
        private=private,
        rate=rate,
        request_seconds=request_seconds,
        bytes_in_flight=int(max_mb_in_flight * MB),
        access_log=access_log,
    )
    check_host(host, options)
    asked = tuple(n for n in ladder.split(",") if n)
    served = service(
        file,
        backend=backend,
        precision=None if precision is None else as_precision(precision),
        threads=threads,
        every=unmeasured,
        most=max_batch,
        costs=costs,
        net=net,
        needed=asked,
    )
    names = asked or tuple(served.points)
    target = default_target(names[0], served.costs) if target_ms is None else target_ms
    web = make_app(served, Policy(names, target, min_robust, controller), options)
    notes = web.state.notes
    if playground:
        if host not in LOOPBACK:
            raise ValueError(f"--playground lets anyone turn the dial, so it needs a loopback host, given {host}")
        try:
            from rheostat.serve.playground import mount
        except ImportError as error:
            raise ValueError(f"the playground needs {error.name}: pip install 'rheostat[playground]'") from None
        web = mount(web, file, data_dir=data_dir, net=net)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for note in [*notes, *(f"left out: {problem}" for problem in served.left_out.values())]:
        console.print(note, markup=False)
    if client_dial:
        console.print("clients may choose the point: an attacker then chooses the weakest one", style="red")
    where = host if host in LOOPBACK else f"{host} (reachable from the network)"
    lower = {n: m["precision"] for n, m in served.measured.items() if precision is None and "precision" in m}
    shown = ", ".join(f"{n} ({lower[n]})" if n in lower else n for n in served.points)
    console.print(f"serving {shown} of {place} on http://{where}:{port}; docs at /docs", markup=False)
    limits = Connections(max_connections, header_seconds=header_seconds)
    server = uvicorn.Server(config(web, host, port, limits, behind_proxy=behind_proxy))
    server.run()
    if not server.started:
        sys.exit(1)


def _check_finite(options: Mapping[str, float | None]) -> None:
    """Raise ValueError that names the first option whose number is not finite."""
    for option, value in options.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{option} must be a finite number, given {value:g}")
