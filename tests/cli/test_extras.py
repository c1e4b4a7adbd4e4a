"""With the core packages alone, a command that needs more says which extra to install, in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
for name in ("onnx", "onnxscript", "onnxruntime", "fastapi", "uvicorn", "prometheus_client", "gradio", "ray"):
    sys.modules[name] = None  # an import of it fails, as where it is not installed
from rheostat.cli.app import main
for arguments in (
    ["export", "oat-digits", "--at", "robustness=0", "--out", sys.argv[1] + "/m.onnx"],
    ["bench", "oat-digits", "--at", "robustness=0"],
    ["serve", "oat-digits", "--unmeasured-points"],
    ["export", "oat-digits", "--at", "robustness=0", "--to", "torch", "--out", sys.argv[1] + "/m.pt2"],
    ["info", "oat-digits"],
):
    try:
        main(arguments)
        print(arguments[0], "exit 0")
    except SystemExit as stop:
        print(arguments[0], "exit", stop.code)
    sys.stdout.flush()
"""


def test_core_alone_names_the_extra(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = found.stderr.splitlines()
    assert len(lines) == 3, found.stderr
    assert "pip install 'rheostat[deploy]'" in lines[0]
    assert "pip install 'rheostat[deploy]'" in lines[1]
    assert "pip install 'rheostat[serve]'" in lines[2]
    exits = [line for line in found.stdout.splitlines() if " exit " in line]
    assert exits == ["export exit 2", "bench exit 2", "serve exit 2", "export exit 0", "info exit 0"]
    assert (tmp_path / "m.pt2").is_file()
