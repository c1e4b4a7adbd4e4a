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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
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
        for i, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)):
            found.append((f"{page.name}-{i}", block))
    return found


@pytest.mark.parametrize(("name", "code"), blocks("python"), ids=[n for n, _ in blocks("python")])
def test_python_blocks_run(name: str, code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


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
        if not words or words[0] == "make":
            assert not words or words[1] in (ROOT / "Makefile").read_text()
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


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """A page's headings as GitHub links to them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def test_links_into_pages_lead_to_headings() -> None:
    for page in PAGES:
        for target, part in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert part in anchors(page.parent / target if target else page), f"{page.name}: {part}"


def pixels(picture: Path) -> np.ndarray:
    """(H, W, 3) in 0 to 255."""
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32)


def test_results_are_what_the_rows_say(tmp_path: Path) -> None:
    """README's table, the pages and their pictures, made again from the rows, do not differ: nothing was typed."""
    build = [sys.executable, str(ROOT / "benchmarks" / "pages" / "build.py"), "--out", str(tmp_path)]
    subprocess.run(build, cwd=tmp_path, check=True)
    made = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    pictures = [p for p in made if p.suffix == ".png"]
    pages = [p for p in made if p.suffix == ".md"]
    assert {p.name for p in pages} == {"README.md", "results.md", "which.md", "adopted.md"}
    assert {p.name for p in pictures} == {p.name for p in (ROOT / "docs").glob("*.png")}
    for page in pages:
        assert (tmp_path / page).read_text() == (ROOT / page).read_text(), page
    for picture in pictures:
        made_again, committed = pixels(tmp_path / picture), pixels(ROOT / picture)
        assert made_again.shape == committed.shape, picture
        # Another version of Matplotlib may smooth an edge otherwise; a moved mark is more than this.
        assert np.abs(made_again - committed).mean() < 0.01, picture
