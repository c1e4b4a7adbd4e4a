"""Text from elsewhere: control characters are shown, TOML is bounded in size, depth and time, numbers are finite."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rheostat.attacks import Attack
from rheostat.cli.app import main
from rheostat.cli.terminal import VisibleConsole
from rheostat.runtime.quantities import quantity
from rheostat.runtime.terminal import visible
from rheostat.runtime.toml import parse_toml
from rheostat.training.queue import read_queue
from rheostat.training.recipe import load_recipe

ESCAPE = "\x1b]0;owned\x07"


def test_control_characters_become_their_escapes() -> None:
    assert visible("plain, Größe, 数") == "plain, Größe, 数"
    assert visible(ESCAPE) == r"\x1b]0;owned\x07"
    assert visible("a\x9b2J\u202eb\u2028\ud800\n") == r"a\x9b2J\u202eb\u2028\ud800\n"
    assert visible("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"


def test_the_console_shows_them_in_messages_and_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    console = VisibleConsole(highlight=False, markup=False, emoji=False, width=200)
    table = Table(ESCAPE)
    table.add_row(f"[red]{ESCAPE}[/nothing] :smile:")
    console.print(f"[bold]{ESCAPE}", table)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert said.count(r"\x1b]0;owned\x07") == 3
    assert "[/nothing] :smile:" in said


def test_an_error_message_of_the_command_line_holds_no_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('name = "x"\n"\\u001b]0;owned\\u0007" = 1\n')
    for arguments in (["info", f"absent{ESCAPE}"], ["train", str(tmp_path / "a.toml")], ["info", "x" * 10**6]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        said = capsys.readouterr().err
        assert stopped.value.code == 2
        assert said[:-1].isprintable()
        assert len(said) < 2100


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a = 1\n" * 100_000, "characters; at most"),
        ("a." * 50_000 + "a = 1", "more than 200 dots in a line"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("a = " + "{a = " * 10_000, "not TOML"),
        ("a = " + "[" * 40 + "]" * 40, "nested more than 20 deep"),
        (".".join("a" * 40) + " = 1", "nested more than 20 deep"),
        ("a = " + "9" * 5000, "not TOML"),
        ("a = 1\na = 2", "not TOML"),
    ],
    ids=range(8),
)
def test_toml_files_are_bounded(tmp_path: Path, text: str, match: str) -> None:
    """On the code before, a RecursionError was a traceback, and a key of 50 000 parts took minutes."""
    path, begun = tmp_path / "a.toml", time.monotonic()
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        load_recipe(path)
    with pytest.raises(ValueError, match=match):
        read_queue(path)
    assert time.monotonic() - begun < 5


def test_the_slowest_file_that_is_read_takes_seconds() -> None:
    line = ".".join(["a"] * 18)
    text = "\n".join(f"{line}.b{i} = 1" for i in range(5000))
    begun = time.monotonic()
    assert "a" in parse_toml(text, "x")
    assert time.monotonic() - begun < 10


def test_files_that_are_no_text_or_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_queue(tmp_path / "a.toml")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "b.toml")
        for read in (load_recipe, read_queue):
            with pytest.raises(ValueError, match=r"no (recipe )?file"):
                read(tmp_path / "b.toml")


@pytest.mark.parametrize(
    "change",
    [
        "train.lr=NaN",
        "train.lr=Infinity",
        "train.weight_decay=1e999",
        "attack.eps=NaN",
        "attack.eps=8",
        "attack.step_size=Infinity",
        "attack.step_size=1e400/1",
        "device.threads=100000",
        "train.lr=" + "[" * 100_000,
        "train.epochs=" + "9" * 5000,
        "a." * 5000 + "b=1",
        "method.dim=x",
        "method.dim=2.5",
        "net.depth=x",
    ],
    ids=range(14),
)
def test_numbers_of_a_recipe_are_finite_and_in_range(change: str) -> None:
    with pytest.raises(ValueError, match=r"^.+$"):
        load_recipe("oat-digits", changes=[change])


@pytest.mark.parametrize(
    "options",
    [
        {"eps": float("nan")},
        {"eps": float("inf")},
        {"eps": 8.0},
        {"eps": 1e6, "norm": "l2"},
        {"eps": 0.1, "step_size": float("nan")},
        {"eps": 0.1, "step_size": float("inf")},
        {"eps": 0.1, "step_size": -1.0},
        {"eps": 0.1, "momentum": float("inf")},
    ],
    ids=range(8),
)
def test_numbers_of_an_attack_are_finite_and_in_range(options: dict[str, float]) -> None:
    """An eps of 8 once meant 8 times the range of a pixel, and NaN made every image NaN."""
    with pytest.raises(ValueError, match=r"finite|at most"):
        Attack("pgd", **options)


def test_quantities_are_finite() -> None:
    assert quantity("1.5G", "", "macs") == 1.5e9
    for text in ("1e999", "1.2.3M", "...", "9" * 400 + "M"):
        with pytest.raises(ValueError, match="finite number"):
            quantity(text, "", "macs")
