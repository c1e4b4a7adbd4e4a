"""Every code block of README and docs runs; what they link to exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rheostat.cli.app import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUICK = [
    "--set",
    "train.max_steps=2",
    "--set",
    "data.train_images=300",
    "--set",
    "select.images=20",
    "--set",
    "select.steps=1",
    "--set",
    "calibrate_dial=false",
    "--threads",
    "1",
]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        if page.parent.name == "tutorials":
            continue  # scripts, which test_tutorials.py runs
        for i, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)):
            found.append((f"{page.relative_to(ROOT).with_suffix('').as_posix()}-{i}", block))
    return found


@pytest.mark.parametrize(("name", "code"), blocks("python"), ids=[n for n, _ in blocks("python")])
def test_python_blocks_run(name: str, code: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Each by itself; what registers a method does so in a process of its own."""
    if "register" in code:
        command = [sys.executable, "-W", "error::UserWarning", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        return
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {"__name__": "block"})
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("name", "code"), blocks("sh"), ids=[n for n, _ in blocks("sh")])
def test_command_lines_run(name, code, tmp_path, monkeypatch, real_data, capsys) -> None:
    """As they stand, but for training and measuring less; make targets are what CI itself runs."""
    monkeypatch.chdir(tmp_path)
    import uvicorn

    # A server would run for ever: everything up to its first request is run.
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: setattr(self, "started", True))
    for line in code.splitlines():
        words = shlex.split(line.replace("DATA", str(real_data)), comments=True)
        # The playground has tests of its own; mounted and never run, it leaves Gradio's event loops unclosed.
        if words[1:2] == ["playground"]:
            continue
        if not words or words[0] in ("make", "pip"):
            assert not words or words[0] == "pip" or words[1] in (ROOT / "Makefile").read_text()
            continue
        assert words[0] == "rheostat"
        more = {"train": QUICK, "evaluate": ["--examples", "20", "--threads", "1"], "bench": ["--threads", "1"]}.get(
            words[1], []
        )
        arguments = [w for i, w in enumerate(words[1:]) if w != "--examples" and words[i] != "--examples"]
        assert exit_code([*arguments, *more]) == 0, capsys.readouterr().err


def exit_code(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def links(page: Path) -> list[tuple[str, str]]:
    """(file, anchor) of every link of a page to this repository; either may be empty."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text)
    return [(target, part) for target, part in found if not target.startswith(("http", "mailto"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target, part in links(page):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {target}"
        if part:
            assert part in anchors(file), f"{page.name}: {target}#{part}"


def anchors(page: Path) -> set[str]:
    """A page's headings, linked to as GitHub and the site do."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def pixels(picture: Path) -> np.ndarray:
    """(H, W, 3) in 0 to 255."""
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """README and docs, made again from the rows in another folder."""
    out = tmp_path_factory.mktemp("built")
    build = [sys.executable, str(ROOT / "benchmarks" / "pages" / "build.py"), "--out", str(out)]
    subprocess.run(build, cwd=out, check=True)
    return out


def test_results_are_what_the_rows_say(built: Path) -> None:
    """Pages and pictures made again from the rows do not differ from those that are committed: nothing was typed."""
    made = [p.relative_to(built) for p in built.rglob("*") if p.is_file()]
    pages, pictures = ([p for p in made if p.suffix == kind] for kind in (".md", ".png"))
    assert {"README.md", "docs/results.md", "docs/which.md", "docs/models.md", "docs/adopted.md"} <= {
        p.as_posix() for p in pages
    }
    for folder in ("appendix", "methods", "models"):
        committed = {p.name for p in (ROOT / "docs" / folder).glob("*.md")}
        assert {p.name for p in pages if p.parent.name == folder} == committed
    committed = {p.relative_to(ROOT) for p in (ROOT / "docs").rglob("*.png") if p.parent.name != "tutorials"}
    assert set(pictures) == committed
    for page in pages:
        assert (built / page).read_text() == (ROOT / page).read_text(), page
    for picture in pictures:
        made_again, there = pixels(built / picture), pixels(ROOT / picture)
        assert made_again.shape == there.shape, picture
        # Another version of Matplotlib may smooth an edge otherwise; a moved mark is more than this.
        assert np.abs(made_again - there).mean() < 0.01, picture
