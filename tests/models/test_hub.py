"""Models on a hub, against a server of the test's own that speaks the hub's protocol; nothing leaves this machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rheostat
from rheostat.models import hub
from rheostat.points.point import Point

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories in memory: created, committed to, and read."""

    protocol_version = "HTTP/1.1"
    files: dict[str, dict[str, bytes]]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": SHA, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, code: int = 200) -> None:
        self._send(code, json.dumps(value).encode(), Content_Type="application/json")

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer good":
            self._json({"error": "Unauthorized"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(name, {})
            self._json({"url": f"{self._address()}/{name}"})
        elif "/preupload/" in self.path:
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        elif "/commit/" not in self.path:  # of the card's header
            self._json({"errors": [], "warnings": []})
        else:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json({"commitUrl": f"{self._address()}/{name}/commit/{SHA}", "commitOid": SHA})

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if "resolve" not in parts:
            self._json({"id": "/".join(parts[2:4]), "sha": SHA, "siblings": []})
            return
        content = self.files.get("/".join(parts[:2]))
        if content is None:
            self._send(404, b"", X_Error_Code="RepoNotFound")
        elif parts[3] not in ("main", SHA):
            self._send(404, b"", X_Error_Code="RevisionNotFound")
        elif parts[4] not in content:
            self._send(404, b"", X_Error_Code="EntryNotFound")
        else:
            found = content[parts[4]]
            self._send(200, found, ETag=f'"{hashlib.sha256(found).hexdigest()}"')

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture
def repositories() -> Iterator[tuple[str, dict[str, dict[str, bytes]]]]:
    """(the server's address, its repositories)."""
    handler = type("Own", (Hub,), {"files": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.files
    server.shutdown()
    server.server_close()


SCRIPT = """
import json, sys, torch, rheostat
from rheostat.models import hub

model = rheostat.load("oat-digits")
said = [hub.push_to_hub(model, "lab/digits", card="# Mine", token="good")]
again = rheostat.load("hf:lab/digits")
x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
assert torch.equal(model.at(robustness=1.0)(x), again.at(robustness=1.0)(x))
assert torch.equal(again.at(robustness=0.0)(x), rheostat.load("hf:lab/digits@main").at(robustness=0.0)(x))
hub.push_to_hub("oat-digits", "lab/file", token="good")
for name in ("hf:lab/none", "hf:lab/digits@v9", "hf:lab/empty", "hf:digits"):
    try:
        rheostat.load(name)
    except ValueError as error:
        said.append(str(error))
try:
    hub.push_to_hub(model, "lab/digits", token="bad")
except ValueError as error:
    said.append(str(error))
from rheostat.cli.app import main

main(["push", "oat-digits", "lab/pushed"])
try:
    main(["push", "oat-digits", "pushed"])
except SystemExit as stop:
    assert stop.code == 2
print(json.dumps(said))
"""


def run(script: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A Python of its own, for the hub's package reads its address when it is imported."""
    own = {
        "HF_TOKEN": "good",
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run([sys.executable, "-c", script], env={**os.environ, **own}, capture_output=True, text=True)


def test_a_model_goes_to_a_hub_and_comes_back(repositories: tuple[str, Any], tmp_path: Path) -> None:
    endpoint, files = repositories
    files["lab/empty"] = {}
    done = run(SCRIPT, endpoint, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    told, _, said = done.stdout.strip().rpartition("\n")
    address, none, revision, empty, short, refused = json.loads(said)
    assert f"lab/pushed/commit/{SHA}" in told.replace("\n", "")
    assert "organisation/name, given 'pushed'" in done.stderr
    assert files["lab/pushed"]["model.safetensors"] == files["lab/file"]["model.safetensors"]
    card = files["lab/pushed"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: rheostat")
    assert "# lab/pushed" in card
    assert "| quick | test | 360 |" in card  # the figures of the index of models that ship
    assert address.endswith(f"lab/digits/commit/{SHA}")
    assert b"# Mine" in files["lab/digits"]["README.md"]
    assert b"library_name: rheostat" in files["lab/digits"]["README.md"]
    packaged = rheostat.models.artifact.locate("oat-digits").read_bytes()
    assert files["lab/file"]["model.safetensors"] == packaged
    assert "no model 'lab/none'" in none
    assert "no revision 'v9'" in revision
    assert "holds no model.safetensors" in empty
    assert "organisation/name" in short
    assert "could not be uploaded" in refused
    # What was fetched once needs no connection; what was not says so.
    offline = run("import rheostat; rheostat.load('hf:lab/digits')", "http://127.0.0.1:9", tmp_path / "home")
    assert offline.returncode == 0, offline.stderr
    missing = run("import rheostat; rheostat.load('hf:lab/other')", "http://127.0.0.1:9", tmp_path / "home")
    assert "cannot be reached" in missing.stderr
    push = "from rheostat.cli.app import main; main(['push', 'oat-digits', 'lab/x'])"
    unsent = run(push, "http://127.0.0.1:9", tmp_path / "home")
    assert unsent.returncode == 2
    assert "lab/x could not be uploaded: " in unsent.stderr
    assert "Traceback" not in unsent.stderr


INT8 = """
import rheostat
from rheostat.models import artifact, hub

hub.push_to_hub({run!r}, "lab/small", token="good")
file = artifact.locate("hf:lab/small")
print(file.with_name("model.fast.int8.onnx").read_text())
try:
    hub.push_to_hub(rheostat.load({run!r}), "lab/small", token="good")
except ValueError as error:
    print(error)
try:
    artifact.check_nameable("hf:lab/small", "safe")
except ValueError as error:
    print(error)
"""


def test_the_int8_files_of_points_go_with_their_model(repositories: tuple[str, Any], tmp_path: Path) -> None:
    endpoint, files = repositories
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    shutil.copy(rheostat.models.artifact.locate("oat-digits"), run_folder / "model.safetensors")
    rheostat.models.artifact.name_point(run_folder, "fast", Point(robustness=1.0), {"precision": "int8"})
    with pytest.raises(ValueError, match="fast: served as int8, from files that are not beside the model's file"):
        hub.push_to_hub(run_folder, "lab/small", token="good")
    (run_folder / "model.fast.int8.onnx").write_text("the quantised file")
    done = run(INT8.format(run=str(run_folder)), endpoint, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert files["lab/small"]["model.fast.int8.onnx"] == b"the quantised file"
    own, no_files, no_names = done.stdout.strip().splitlines()
    assert own == "the quantised file"
    assert no_files.startswith("fast: served as int8")
    assert "the hub's copy of a model" in no_names
    # A repository that an earlier version wrote has the model alone.
    del files["lab/small"]["model.fast.int8.onnx"]
    again = run("import rheostat; rheostat.load('hf:lab/small')", endpoint, tmp_path / "other")
    assert again.returncode == 0, again.stderr


def test_what_does_not_load_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        hub.push_to_hub(tmp_path / "bad.safetensors", "lab/bad")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"rheostat\[hub\]"):
        rheostat.load("hf:lab/digits")


def test_an_error_without_words_is_named_by_its_type() -> None:
    assert hub._reason(TimeoutError()) == "TimeoutError"
    assert hub._reason(OSError("\nNo space\nleft")) == "No space"
