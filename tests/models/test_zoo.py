"""Models that ship: the index says what the files are, every command takes a name, and larger files are fetched."""

from __future__ import annotations

import dataclasses
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rheostat
from rheostat.cli import main
from rheostat.models import artifact, fetching, zoo
from rheostat.points.point import Point
from support import images_for

LARGE = "digits-large"
"""The packaged model, under this name, as one that does not come with the package."""


shipped = zoo.index()["oat-digits"]


class Answers(http.server.BaseHTTPRequestHandler):
    """Serves one body, or a part of it, or an error; counts what it was asked."""

    body, sent, code = b"", None, 200
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[: self.sent])

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def server(large: zoo.Shipped, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    """A server of one large file on loopback, and the address at which models are looked for."""
    kind = type("OneFile", (Answers,), {"body": artifact.locate("oat-digits").read_bytes(), "asked": []})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv(fetching.ADDRESS, f"http://127.0.0.1:{listening.server_port}/models/")
    yield kind
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> zoo.Shipped:
    """An entry of the index that is not in the package, with an empty cache."""
    monkeypatch.setenv(fetching.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(fetching.ADDRESS, raising=False)
    entry = dataclasses.replace(zoo.index()["oat-digits"], name=LARGE, file=f"{LARGE}.safetensors", where="repository")
    monkeypatch.setattr(zoo, "index", lambda: {"oat-digits": shipped, LARGE: entry})
    return entry


def kept(entry: zoo.Shipped) -> list[str]:
    """What the cache holds, but for locks."""
    folder = entry.cached.parent
    return [p.name for p in folder.iterdir() if not p.name.endswith(".lock")] if folder.is_dir() else []


def refused(name: str = LARGE) -> str:
    """The one line that a load ends with."""
    with pytest.raises(ValueError, match=r".") as error:
        rheostat.load(name)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_index_says_what_the_files_are() -> None:
    packaged = {name: e for name, e in zoo.index().items() if e.where == "package"}
    assert {e.name: e.path for e in packaged.values()} == artifact.packaged()
    for name, entry in packaged.items():
        assert (fetching.sha256(entry.path), entry.path.stat().st_size) == (entry.sha256, entry.bytes)
        assert entry.bytes <= zoo.LARGEST
        assert artifact.digest(name) == entry.digest
        _, about = artifact.load_with(name)
        assert (about.threat["norm"], about.threat["eps"]) == (entry.norm, entry.eps)
        assert entry.state == "packaged"
        assert entry.at(1.0, "quick") is not None
    assert all(e.bytes > zoo.LARGEST for e in zoo.index().values() if e.where == "repository")


def test_a_large_model_is_fetched_once_and_then_works_offline(server, large, monkeypatch, capsys) -> None:
    assert large.state == "not fetched"
    model = rheostat.load(LARGE)
    assert server.asked == [f"/models/{LARGE}.safetensors"]
    assert kept(large) == [large.file]
    assert large.state == "cached"
    monkeypatch.delenv(fetching.ADDRESS)
    again, packaged = rheostat.load(LARGE), rheostat.load("oat-digits")
    x = images_for(model)
    for one in (model, again):
        assert torch.equal(one(x, Point(robustness=1.0)), packaged(x, Point(robustness=1.0)))
    main(["models"])
    assert "cached" in capsys.readouterr().out
    main(["info", LARGE])
    assert large.digest in capsys.readouterr().out
    with pytest.raises(ValueError, match="copy it before"):  # its hash is published
        artifact.name_point(LARGE, "safe", Point(robustness=1.0), {})


def test_a_source_tree_holds_the_large_files(large, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(zoo, "SOURCE", folder)
    (folder / large.file).write_bytes(b"a pointer to the file")
    assert large.state == "not fetched"
    whole = artifact.locate("oat-digits").read_bytes()
    (folder / large.file).write_bytes(whole)
    assert rheostat.load(LARGE).dials
    main(["models"])
    assert "in models/" in capsys.readouterr().out
    assert [p.name for p in folder.iterdir()] == [large.file]  # no lock beside it
    assert not kept(large)
    monkeypatch.chdir(folder)
    assert zoo.ships(Path(large.file))
    (folder / large.file).write_bytes(whole[:-1] + b"x")
    assert "sha256 differs" in refused()
    assert (folder / large.file).read_bytes() == whole[:-1] + b"x"


def test_a_copy_in_the_cache_ships_too(server, large, tmp_path, monkeypatch) -> None:
    rheostat.load(LARGE)
    monkeypatch.setattr(zoo, "SOURCE", tmp_path)
    (tmp_path / large.file).write_bytes(large.path.read_bytes())
    assert zoo.ships(large.cached)
    assert zoo.ships(tmp_path / large.file)
    assert not zoo.ships(tmp_path / "another.safetensors")


def test_models_holds_every_large_file_of_the_index() -> None:
    if not zoo.SOURCE.is_dir():
        pytest.skip("this source tree came without models/")
    for name, entry in zoo.index().items():
        if entry.where == "repository":
            assert entry.state == "in models/", name
            assert fetching.sha256(entry.path) == entry.sha256
            assert artifact.digest(name) == entry.digest


def test_a_damaged_copy_is_fetched_again(server, large) -> None:
    rheostat.load(LARGE)
    large.path.write_bytes(large.path.read_bytes()[:-1] + b"x")
    rheostat.load(LARGE)
    assert len(server.asked) == 2
    assert fetching.sha256(large.path) == large.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"body": bytes(shipped.bytes)}, "its sha256 differs"),
        ({"body": bytes(shipped.bytes + 2**20)}, "its sha256 differs"),
        ({"body": b"another file"}, "broke off after 12 of"),
        ({"sent": 1000}, "broke off after 1000 of"),
        ({"code": 404}, "the server answers 404"),
        ({"code": 500, "body": b""}, "the server answers 500"),
    ],
)
def test_a_wrong_download_leaves_nothing_and_says_what_to_do(server, large, changes, message) -> None:
    for key, value in changes.items():
        setattr(server, key, value)
    text = refused()
    assert message in text
    assert f"copy {large.file} (sha256 {large.sha256[:12]}" in text
    assert str(large.path.parent) in text
    assert kept(large) == []
    assert large.state == "not fetched"


def test_an_offline_machine_gets_one_line(large, monkeypatch, capsys) -> None:
    assert f"no address is known ({fetching.ADDRESS} is not set)" in refused()
    monkeypatch.setenv(fetching.ADDRESS, "mirror.example")
    assert f"{fetching.ADDRESS} is no web address: 'mirror.example'" in refused()
    with socket.socket() as taken:  # bound and not listening: the connection is refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(fetching.ADDRESS, f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert "no connection (is this machine offline?)" in refused()
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", LARGE])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.splitlines()[-1].startswith("rheostat: digits-large could not be fetched")
    assert "Traceback" not in error
    assert kept(large) == []


def test_a_cache_that_cannot_be_written_is_one_line(large, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(fetching.CACHE, str(tmp_path / "file"))
    assert "could not be fetched" in refused()


def test_a_wrong_name_names_the_nearest_and_the_list(large) -> None:
    text = refused("digits-larg")
    assert "did you mean 'digits-large'?" in text
    assert "rheostat models" in text


def test_the_list_says_what_ships(capsys) -> None:
    main(["models"])
    out = capsys.readouterr().out
    robust = shipped.at(1.0, "standard")
    assert robust is not None
    for word in ("oat-digits", "digits", shipped.threat, f"{100 * robust.robust:.1f}", "CC BY", "packaged"):
        assert word in out


def test_the_card_of_a_model_that_ships_has_its_figures_and_commands(capsys) -> None:
    main(["card", "oat-digits"])
    text = capsys.readouterr().out
    robust = shipped.at(1.0, "standard")
    assert robust is not None
    assert f"| 1 | {100 * robust.clean:.1f} [" in text
    assert f"| {100 * robust.robust:.1f} [" in text
    assert f"{', '.join(robust.attacks)} | standard | test | {robust.n} |" in text
    assert "licence: CC BY 4.0" in text
    assert [line.split()[:3] for line in commands(text)] == [
        ["rheostat", command, "oat-digits"] for command in ("evaluate", "evaluate", "train")
    ]


def commands(card: str) -> list[str]:
    """The command lines of a card."""
    return card.partition("```console\n")[2].partition("```")[0].splitlines()


@pytest.mark.slow
def test_the_commands_of_a_card_run(capsys, tmp_path, monkeypatch) -> None:
    """As they stand, but for measuring and training less."""
    main(["card", "oat-digits"])
    lines = commands(capsys.readouterr().out)
    monkeypatch.chdir(tmp_path)
    few = ["--at", "robustness=1", "--examples", "6", "--no-probe"]
    short = [w for c in ("train.max_steps=2", "calibrate_dial=false", "select.images=20") for w in ("--set", c)]
    for line in lines:
        words = [str(tmp_path) if w == "DATA" else w for w in line.split()[1:]]
        main([*words, *(few if words[0] == "evaluate" else short)])
    assert (tmp_path / "runs" / "oat-digits" / "rows.jsonl").is_file()
    assert (tmp_path / "runs" / "oat-digits" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("norm", "eps", "text"), [("linf", 8 / 255, "8/255"), ("linf", 0.1, "0.1"), ("l2", 0.5, "l2 0.5")]
)
def test_a_radius_is_written_as_the_field_does(norm: str, eps: float, text: str) -> None:
    assert dataclasses.replace(shipped, norm=norm, eps=eps).threat == text
