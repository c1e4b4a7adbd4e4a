"""Production arrivals replayed: controllers against every fixed point and an oracle → results/serve-trace.jsonl.

`python benchmarks/measure/serve_trace.py RUN --ladder safe,balanced,fast` measures a ladder on this machine and
simulates the queue with it; without RUN the ladder of the rows is simulated again, which needs no model and no quiet
machine (some minutes). Its parts: `simulated` (every policy, on the window on which controllers were made), `confirmed`
(other windows and seeds), `shortfall` (one thing changed at a time). `--live` replays some traces over HTTP against
real servers instead. Each renews its own rows and keeps the others.

The mean load is a share of what the ladder's first point carries: requests in the largest batch of which two passes
fit into the deadline, over the time of that batch. The deadline is five times the first point's time for one request.
Images are of the test split; a share of the requests is attacked by PGD-20 at the point that answers them (live: at
the point that the last answer named; simulated: both accuracies in expectation). Latency counts from the arrival in
the trace.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve_arrivals import arrivals
from serve_judging import Bits, Requests, judged
from serve_replay import Pixels, replay, server
from serve_shortfall import shortfall
from serve_simulated import MOST, SHARE, Bench, confirmed, line, simulated, ways

from rheostat.attacks import named
from rheostat.data import to_pixels
from rheostat.evaluation.attacked import attack_chunk, victim_at
from rheostat.evaluation.lookup import find_data, find_target
from rheostat.models import artifact
from rheostat.models.artifact import versions
from rheostat.models.tunable import Tunable
from rheostat.results.machine import hardware
from rheostat.results.timings import read_timings, write_timings
from rheostat.serve.backends import service
from rheostat.serve.costs import Costs, measure, ordered
from rheostat.serve.options import Service

RESULTS = Path(__file__).parents[1] / "results" / "serve-trace.jsonl"
LIVE = (("code", 0.8), ("code", 1.5))
LIVE_EACH, LIVE_MOST = 128, 4
"""Images of a request over HTTP, so that the model takes longer than the protocol, and requests in a batch."""
ABOUT = ("ladder", "test_images", "attacked_share", "attack", "artifact", "hardware", "versions", "seed")
KNOWN = ("clean_accuracy", "robust_accuracy", "robust_bound")
PARTS = {"simulated": simulated, "confirmed": confirmed, "shortfall": shortfall}
"""What is simulated; each renews its own rows."""


@dataclass(frozen=True)
class Subject:
    """What is served and asked: the service, its ladder, measured times, test images, their answers at each point."""

    served: Service
    ladder: tuple[str, ...]
    costs: Costs
    images: Pixels
    attacked: dict[str, Pixels]
    clean_bits: Bits
    attacked_bits: Bits
    labels: list[str]


def subject(run: str, names: tuple[str, ...], count: int, most: int) -> Subject:
    """Everything that is measured once: times of passes, and answers to clean and attacked test images."""
    served = service(run, threads=1, most=1)
    costs = measure({n: served.runs[n] for n in names}, served.image, most, passes=15)
    target = find_target(run, name=None, between=None)
    assert isinstance(target.model, Tunable)
    data = find_data(target, None, "test", data_dir=None, examples=count, verify=True)
    x, y = to_pixels(data.images), data.labels
    attack = named("pgd20", eps=float(target.about.threat["eps"]), norm=target.about.threat["norm"])
    moved: dict[str, Pixels] = {}
    for name in names:
        victim = victim_at(target.model, target.model.points[name])
        parts = [
            attack_chunk(victim, x[i : i + 100], y[i : i + 100], attack, (0, f"replay {i}")).adversarial
            for i in range(0, count, 100)
        ]
        moved[name] = torch.cat(parts).numpy()
    bits = [
        {n: np.asarray(served.runs[n](images[n]).argmax(1) == y.numpy()) for n in names}
        for images in (dict.fromkeys(names, x.numpy()), moved)
    ]
    labels = [served.classes[int(i)] for i in y]
    return Subject(served, ordered(names, costs), costs, x.numpy(), moved, bits[0], bits[1], labels)


def live(run: str, found: Subject, bench: Bench, seconds: float) -> list[dict[str, Any]]:
    """Some traces over HTTP, one server for each policy and replay."""
    deadline, rate, each, rows = bench.deadline, bench.rate, bench.each, []
    for name, load in LIVE:
        count = int(seconds * load * rate)
        requests = Requests.drawn(count, each, len(found.images), SHARE)
        for label, policy in ways(found.ladder, deadline).items():
            if policy.min_robust is None:
                continue
            options = ["--target-ms", f"{policy.target_ms:g}", "--controller", policy.controller, "--deadline-ms", "0"]
            options += ["--max-batch", str(LIVE_MOST * each), "--queue", str(4 * LIVE_MOST * each)]
            options += ["--min-robust", f"{policy.min_robust:g}"]
            with server(artifact.locate(run), policy.ladder, *options) as url:
                times = arrivals(name, load * rate, count)
                made = asyncio.run(
                    replay(url, times, requests, found.images, found.attacked, found.labels, first=policy.ladder[0])
                )
            numbers = judged(made.outcomes, made.right, requests.attacked, deadline)
            row = {"how": "live", "trace": name, "load": load, "policy": label, **numbers}
            more = {"statuses": made.statuses, "attacked_at_answering_point": made.aimed}
            rows.append(row | more | line(row, made.outcomes, found.ladder[0]) | bench.about())
    return rows


def shown(row: dict[str, Any]) -> None:
    """One line of a row on the terminal."""
    points = ", ".join(f"{n} {100 * s:.0f} %" for n, s in sorted(row["time_at"].items()))
    print(
        f"{row['how']} {row['trace']} at {row['load']:g}, {row['policy']}: effective accuracy clean "
        f"{100 * row['effective_clean']:.1f}, attacked {100 * row['effective_attacked']:.1f}; in time "
        f"{100 * row['slo']:.1f} %, refused {100 * row['refused']:.1f} %, p99 {row['p99_ms']:.1f} ms; {points}",
        flush=True,
    )


def ladder_of(found: Subject) -> dict[str, dict[str, Any]]:
    """What rows say of each point: its dials, its accuracy on the test images, what its file knew of it, its times."""
    return {
        n: {
            "at": found.served.points[n],
            "clean_accuracy": float(found.clean_bits[n].mean()),
            "robust_accuracy": float(found.attacked_bits[n].mean()),
            "known": {k: v for k, v in found.served.measured[n].items() if k in KNOWN},
            "ms": {str(size): 1e3 * s for size, s in found.costs[n].measured},
        }
        for n in found.ladder
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a run's folder or a model file; default the ladder of the rows")
    parser.add_argument("--ladder", default="", help="points of the run, the preferred one first")
    parser.add_argument("--live", action="store_true", help="replay over HTTP; else in simulated time")
    parser.add_argument("--part", choices=PARTS, help="of the simulation; default all")
    parser.add_argument("--images", type=int, default=400, help="test images")
    parser.add_argument("--requests", type=int, default=1200, help="of each simulated replay")
    parser.add_argument("--each", type=int, help=f"images of a request; default 1, and {LIVE_EACH} over HTTP")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each live replay, at a load of 1")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    old = read_timings(given.out) if given.out.is_file() else []
    parts = tuple(PARTS) if given.part is None else (given.part,)
    if given.run is None:
        if given.live or given.ladder or given.each:
            parser.error("--live, --ladder and --each need a run")
        about, each = _measured(old), 1
        rows = _renewed(Bench(about["ladder"], each), given.requests, parts)
    else:
        if not given.ladder:
            parser.error("name the run's points: --ladder safe,balanced,fast")
        each = given.each or (LIVE_EACH if given.live else 1)
        found = subject(
            given.run, tuple(given.ladder.split(",")), given.images, (LIVE_MOST if given.live else MOST) * each
        )
        about = {
            "ladder": ladder_of(found),
            "test_images": given.images,
            "attacked_share": SHARE,
            "attack": "pgd20",
            "artifact": found.served.artifact,
            "hardware": hardware(torch.device("cpu")),
            "versions": versions(),
            "seed": 0,
        }
        bench = Bench(about["ladder"], each)
        rows = live(given.run, found, bench, given.seconds) if given.live else _renewed(bench, given.requests, parts)
    renewed = ("live",) if given.live else parts
    # What is known of the ladder stands in full in the rows of the table; the others name the model alone.
    new = [{**r, **(about if "policy" in r else {"artifact": about["artifact"]})} for r in rows]
    both = [r for r in old if r["how"] not in renewed] + new
    write_timings(given.out, sorted(both, key=lambda r: (*PARTS, "live").index(r["how"])))


def _measured(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a simulated row says of the measurement behind it."""
    first = next((r for r in rows if r["how"] == "simulated"), None)
    if first is None:
        raise SystemExit("no rows whose ladder could be simulated again; name a run and --ladder")
    return {k: first[k] for k in ABOUT}


def _renewed(bench: Bench, count: int, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = [row for part in parts for row in PARTS[part](bench, count)]
    for row in rows:
        if "policy" in row:
            shown(row)
    return rows


if __name__ == "__main__":
    main()
