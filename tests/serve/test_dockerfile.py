"""The Dockerfile, as far as it can be checked without Docker: it parses, copies what is there, and its commands run."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from fakes import IMAGE, MEASURED, NPY, TOKEN, npy

from rheostat.models import artifact
from rheostat.points.point import Point

ROOT = Path(__file__).parents[2]
KNOWN = {
    *("FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD", "ENV", "ARG"),
    "LABEL",
}


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order; comments are left out and continued lines are joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def given(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a file at the top out; the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().split():
        if fnmatch.fnmatch(path, line.removeprefix("!")):
            out = not line.startswith("!")
    return out


def test_every_instruction_is_one_and_it_begins_with_an_image() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= KNOWN
    assert words[0] == "FROM"
    assert ":" in given("FROM")[0]
    assert "latest" not in given("FROM")[0]
    assert words.count("ENTRYPOINT") == words.count("CMD") == 1


def test_what_is_copied_is_there_and_not_ignored() -> None:
    for line in given("COPY"):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert not ignored(source), source
    for secret in ("runs", ".git", ".env", "tests", ".venv", "policy.json", "tokens"):
        assert ignored(secret), secret


def test_it_serves_as_a_user_without_rights_and_holds_no_secret() -> None:
    order = [word for word, _ in instructions()]
    assert given("USER")[-1] not in ("root", "0")
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert "TOKEN" not in " ".join(rest for word, rest in instructions() if word in ("ENV", "ARG"))
    for word in ("ENTRYPOINT", "CMD"):
        assert all(isinstance(part, str) for part in json.loads(given(word)[0]))
    port = given("EXPOSE")[0]
    assert port in json.loads(given("CMD")[0])
    assert f":{port}/readyz" in given("HEALTHCHECK")[0]


def test_the_version_of_python_and_the_extra_are_the_projects() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minor = int(given("FROM")[0].partition(":3.")[2].partition("-")[0])
    assert 11 <= minor <= 13
    assert project["requires-python"] == ">=3.11,<3.14"
    install = next(line for line in given("RUN") if "pip install" in line)
    assert ".[serve]" in shlex.split(install)
    assert "serve" in project["optional-dependencies"]


@pytest.mark.slow
def test_its_commands_run_here(tmp_path: Path) -> None:
    """Its entry point with its arguments, on a folder with a model, and its own check of health."""
    model = tmp_path / "model"
    model.mkdir()
    file = model / "model.safetensors"
    shutil.copy(artifact.packaged()["oat-digits"], file)
    for name, t in (("safe", 1.0), ("fast", 0.0)):
        artifact.name_point(file, name, Point(robustness=t), MEASURED[name])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def here(part: str) -> str:
        return {"/model": str(model), "8000": port, "0.0.0.0": "127.0.0.1"}.get(part, part)

    entry, arguments = json.loads(given("ENTRYPOINT")[0]), json.loads(given("CMD")[0])
    command = [sys.executable, "-m", *entry, *map(here, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RHEOSTAT_TOKEN": TOKEN}
    check = json.loads(given("HEALTHCHECK")[0].partition("CMD ")[2])
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        healthy = 1
        for _ in range(120):
            assert process.poll() is None
            done = subprocess.run(
                [sys.executable, *(p.replace(":8000", f":{port}") for p in check[1:])], capture_output=True
            )
            healthy = done.returncode
            if healthy == 0:
                break
            time.sleep(0.25)
        assert healthy == 0
        with contextlib.closing(httpx.Client(base_url=f"http://127.0.0.1:{port}")) as client:
            answer = client.post("/v1/predict", content=npy(np.zeros((1, *IMAGE), np.float32)), headers=NPY)
        assert answer.status_code == 200
    finally:
        process.kill()
        process.wait()
