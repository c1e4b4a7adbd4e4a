"""Runs docs/tutorials/*.py and writes their prose, code, outputs and pictures to docs/tutorials/*.md.

`python benchmarks/pages/tutorials.py [NAME ...]` runs all of them, or those named, each in a process of its own. A
script consists of cells that begin with `# %%`; a cell of comments is prose.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
OUTPUT = '```text title="output"\n'


@dataclass(frozen=True)
class Cell:
    """A piece of a script: prose, or code with its first line."""

    text: str
    code: bool
    line: int


def cells(script: str) -> list[Cell]:
    """The cells of a script."""
    found: list[Cell] = []
    start, lines = 0, []
    for number, line in enumerate([*script.splitlines(), "# %%"], 1):
        if line.rstrip() != "# %%":
            lines.append(line)
            continue
        text = "\n".join(lines).strip("\n")
        if text:
            code = any(x and not x.startswith("#") for x in lines)
            plain = text if code else "\n".join(x.removeprefix("#").removeprefix(" ") for x in text.splitlines())
            found.append(Cell(plain, code, start))
        start, lines = number, []
    return found


def page(script: str, outputs: list[str] | None = None) -> str:
    """The Markdown of a script, with its outputs if they are given."""
    parts, said = [], iter(outputs or [])
    for cell in cells(script):
        parts.append(f"```python\n{cell.text}\n```" if cell.code else cell.text)
        if cell.code and outputs is not None and (text := next(said)):
            parts.append(text)
    return "\n\n".join(parts) + "\n"


def executed(path: Path, pictures: Path | None = None) -> list[str]:
    """Run a script in the current folder; the output of each code cell, printed and drawn, as Markdown.

    New PNG files are copied to `pictures` under the script's name.
    """
    outputs, values = [], {"__name__": path.stem}
    sys.modules[path.stem] = type(sys)(path.stem)
    vars(sys.modules[path.stem]).update(values)
    for cell in cells(path.read_text()):
        if not cell.code:
            continue
        before = set(Path().glob("*.png"))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile("\n" * cell.line + cell.text, str(path), "exec"), vars(sys.modules[path.stem]))
        parts = [f"{OUTPUT}{said.getvalue().rstrip()}\n```"] if said.getvalue().strip() else []
        for picture in sorted(set(Path().glob("*.png")) - before):
            name = f"{stem(path)}-{picture.name}"
            if pictures is not None:
                (pictures / name).write_bytes(picture.read_bytes())
            parts.append(f"![{picture.stem}]({name})")
        outputs.append("\n\n".join(parts))
    return outputs


def stem(path: Path) -> str:
    """The name of a script's page."""
    return path.stem.replace("_", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="scripts without .py; by default all")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    paths = [FOLDER / f"{n}.py" for n in given.names] or sorted(FOLDER.glob("*.py"))
    for path in paths:
        if given.here:
            (FOLDER / f"{stem(path)}.md").write_text(page(path.read_text(), executed(path, FOLDER)))
            print(f"wrote docs/tutorials/{stem(path)}.md")
            continue
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, str(Path(__file__).resolve()), path.stem, "--here"]
            subprocess.run(line, cwd=folder, env={**os.environ, "MPLBACKEND": "Agg"}, check=True)


if __name__ == "__main__":
    main()
