"""Tutorials: every script runs, and its page shows its code, with outputs and pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "tutorials"
SCRIPTS = sorted(FOLDER.glob("*.py"))
sys.path.insert(0, str(ROOT / "benchmarks" / "pages"))
import tutorials  # noqa: E402


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_page_shows_its_script(script: Path) -> None:
    page = (FOLDER / f"{tutorials.stem(script)}.md").read_text()
    said = re.compile(r'\n\n```text title="output"\n.*?```(?=\n)|\n\n!\[[^\]]*\]\([^)]*\.png\)', re.S)
    assert said.search(page), "no output was committed"
    assert said.sub("", page) == tutorials.page(script.read_text())
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*\.png)\)", page)
    assert pictures, "nothing is seen at its end"
    for picture in pictures:
        assert (FOLDER / picture).stat().st_size > 5000


def test_cells_are_prose_or_code() -> None:
    found = tutorials.cells("# %%\n# # Title\n#\n# Text.\n\n# %%\n# a comment\nprint(1)\n")
    assert [(c.text, c.code) for c in found] == [("# Title\n\nText.", False), ("# a comment\nprint(1)", True)]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_tutorial_runs(script: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks' / 'pages')!r}); import tutorials; "
        f"from pathlib import Path; out = tutorials.executed(Path({str(script)!r})); print(*out)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d", done.stdout)
    assert ".png)" in done.stdout
