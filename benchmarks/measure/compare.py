"""Each ratio beside its goal and the last committed row: what `make bench` prints at its end.

`python benchmarks/measure/compare.py [FILE ...]` reads files of timings, by default those that `make bench` writes, and
the same files as the last commit has them. A ratio moved if each median lies outside the quartiles of the other row;
a count moved if it is another number.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rheostat.results.timings import Timing, read_timings

RESULTS = Path(__file__).parents[1] / "results"
FILES = (RESULTS / "speed.jsonl", RESULTS / "costs.jsonl")
KEY = ("name", "of", "a", "b", "batch")
"""Fields that say what a row measures."""


@dataclass(frozen=True)
class Line:
    """One figure: what it is of, now and as committed, its goal, and what is to be said of both."""

    what: str
    now: str
    goal: str
    before: str
    verdict: str
    moved: bool


def key_of(row: Timing) -> str:
    """What a row measures, as text: two rows of one key are the same measurement."""
    return ", ".join(str(row[k]) for k in KEY if row.get(k) is not None)


def comparable(row: Timing) -> bool:
    """Whether a row holds a ratio with its quartiles, or a count."""
    found = row.get("ratio")
    return isinstance(found, dict) and {"median", "low", "high"} <= found.keys() if found else "value" in row


def goal_of(row: Timing) -> tuple[str, str]:
    """The goal in words and whether the row meets it; both empty where there is none."""
    for name, sign in (("bar", "≤"), ("bar_at_least", "≥")):
        bar = row.get(name)
        if bar is None or "ratio" not in row:
            continue
        median = row["ratio"]["median"]
        holds = median <= bar if sign == "≤" else median >= bar
        return f"{sign} {bar:g}", "met" if holds else "not met"
    return "", ""


def moved(now: Timing, before: Timing) -> str:
    """How a figure changed, where it did by more than the spread of both rows; else nothing."""
    if "value" in now and "value" in before:
        change = now["value"] - before["value"]
        return f"moved by {change:+g}" if change else ""
    new, old = now["ratio"], before["ratio"]
    if old["low"] <= new["median"] <= old["high"] or new["low"] <= old["median"] <= new["high"]:
        return ""
    change = new["median"] / old["median"] - 1
    return f"moved by {100 * change:+.1f} %, more than the spread"


def compare(now: Iterable[Timing], before: Iterable[Timing]) -> list[Line]:
    """A line for every figure of now, in order, and for every committed one that is no longer measured."""
    current = {key_of(row): row for row in now if comparable(row)}
    known = {key_of(row): row for row in before if comparable(row)}
    lines = []
    for key, row in current.items():
        goal, holds = goal_of(row)
        old = known.get(key)
        changed = "" if old is None else moved(row, old)
        notes = [holds, "new" if old is None else changed, _elsewhere(row, old) if changed else ""]
        shown = "" if old is None else figure(old)
        lines.append(Line(key, figure(row), goal, shown, "; ".join(filter(None, notes)), bool(changed)))
    gone = [Line(k, "", goal_of(r)[0], figure(r), "not measured now", False) for k, r in known.items()]
    return lines + [line for line in gone if line.what not in current]


def figure(row: Timing) -> str:
    """A ratio with its quartiles, or a count."""
    if "value" in row:
        return f"{row['value']:,}"
    ratio = row["ratio"]
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def _elsewhere(now: Timing, before: Timing | None) -> str:
    """That the committed row is of another machine, where it is."""
    same = before is None or now.get("hardware") == before.get("hardware")
    return "" if same else "the committed row is of other hardware or threads"


def text(lines: Sequence[Line]) -> str:
    """The lines as a table, and what moved once more at its end."""
    table = [("figure", "now", "goal", "committed", "")]
    table += [(line.what, line.now, line.goal, line.before, line.verdict) for line in lines]
    widths = [max(len(row[place]) for row in table) for place in range(4)]
    shown = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in table]
    changed = sum(line.moved for line in lines)
    shown.append(f"{changed} of {len(lines)} figures moved by more than the spread")
    return "\n".join(shown)


def committed(file: Path) -> list[Timing]:
    """The timings of a file as the last commit has it; none where it has no such file.

    RuntimeError where the file lies in no repository, or git is not installed.
    """
    folder = file.resolve().parent
    try:
        subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"{file} lies in no git repository with a commit: nothing to compare with") from error
    found = subprocess.run(["git", "show", f"HEAD:./{file.name}"], cwd=folder, capture_output=True, text=True)
    rows: list[dict[str, Any]] = [json.loads(line) for line in found.stdout.splitlines()]
    return rows if found.returncode == 0 else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    for file in parser.parse_args().files:
        print(f"{file.name}\n{text(compare(read_timings(file), committed(file)))}\n")


if __name__ == "__main__":
    main()
