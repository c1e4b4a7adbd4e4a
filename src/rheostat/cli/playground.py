"""The command `playground`: a model's dials in a browser."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rheostat.cli.deploy import DataDir, File, Network, Threads, set_threads
from rheostat.cli.terminal import console

app = typer.Typer()


@app.command(epilog="Example: rheostat playground oat-digits")
def playground(
    file: File,
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 7860,
    net: Network = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Serve a page with sliders on this machine only: turn a dial and see an attack succeed or fail."""
    try:
        import uvicorn
        from fastapi import FastAPI

        from rheostat.serve.connections import config
        from rheostat.serve.playground import PATH, mount
    except ImportError as error:
        raise ValueError(f"the playground needs {error.name}: pip install 'rheostat[playground]'") from None
    set_threads(threads)
    web = mount(FastAPI(), file, data_dir=data_dir, net=net)
    console.print(f"playground of {file} on http://127.0.0.1:{port}{PATH} (Ctrl-C ends it)", markup=False)
    server = uvicorn.Server(config(web, "127.0.0.1", port))
    server.run()
    if not server.started:
        sys.exit(1)
