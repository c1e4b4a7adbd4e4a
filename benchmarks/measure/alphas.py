"""FLOAT's learned noise strengths α, one per convolution → results/alphas.jsonl.

`python benchmarks/measure/alphas.py RUN...`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rheostat.methods.noise import strengths
from rheostat.models.artifact import digest, load, versions
from rheostat.results.timings import read_timings, write_timings

RESULTS = Path(__file__).parents[1] / "results" / "alphas.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    options = parser.parse_args()
    rows = {r["of"]: r for r in read_timings(RESULTS)}
    for run in options.runs:
        found = strengths(load(run).net)
        rows[run.name] = {"of": run.name, "value": found, "artifact": digest(run), "versions": versions()}
        print(run.name, " ".join(f"{v:.3f}" for v in found))
    write_timings(RESULTS, rows.values())


if __name__ == "__main__":
    main()
