"""Production arrivals replayed: controllers against every fixed point and an oracle → results/serve-trace.jsonl.

`python benchmarks/measure/serve_trace.py RUN --ladder safe,balanced,fast` simulates the queue with service times that
are measured here (deterministic, some minutes); `--live` replays some traces over HTTP against real servers instead.
Each renews its own rows and keeps the other's. The mean load is a share of what the ladder's first point carries:
requests in the largest batch of which two passes fit into the deadline, over the time of that batch. The deadline is
five times the first point's time for one request. Images are of the test split; a share of the requests is attacked
by PGD-20 at the point that answers them (live: at the point that the last answer named). Latency counts from the
arrival in the trace.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve_arrivals import LOADS, NAMES, arrivals
from serve_judging import Bits, Requests, correct, judged
from serve_oracle import oracle
from serve_replay import Pixels, replay, server

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
from rheostat.serve.controllers import controller
from rheostat.serve.costs import Costs, measure, ordered
from rheostat.serve.options import Service
from rheostat.serve.policy import Policy
from rheostat.serve.simulation import Outcome, simulate

RESULTS = Path(__file__).parents[1] / "results" / "serve-trace.jsonl"
PASSES = 5
"""The deadline is so many times the time of one request at the first point."""
MOST = 32
"""Requests in a batch."""
ROOM = 4 * MOST
SHARE = 0.25
"""The share of requests that is attacked."""
DRAWN, LINE = ("code", 1.5), 1500
LIVE = (("code", 0.8), ("code", 1.5))
LIVE_EACH, LIVE_MOST = 128, 4
"""Images of a request over HTTP, so that the model takes longer than the protocol, and requests in a batch."""


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

    def seconds(self, each: int) -> Callable[[str, int], float]:
        """Seconds of a batch of so many images, which are always whole requests of `each`."""
        return lambda point, count: self.costs[point](count)


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


def capacity(found: Subject, each: int, deadline: float) -> float:
    """Requests a second that the first point carries."""
    times = found.costs[found.ladder[0]]
    size = max([n for n in range(1, MOST + 1) if 2 * times(n * each) <= deadline], default=1)
    return size / times(size * each)


def ways(found: Subject, deadline: float) -> dict[str, Policy]:
    """The policies that are compared."""
    target = 1e3 * deadline
    known = {
        "slack": Policy(found.ladder, target, 0.0),
        "slack, no floor written": Policy(found.ladder, target),
        "steps": Policy(found.ladder, target, 0.0, "steps"),
    }
    return known | {f"only {name}": Policy((name,), target, 0.0) for name in found.ladder}


def simulated(found: Subject, each: int, count: int) -> list[dict[str, Any]]:
    """Every trace × load × policy, in simulated time."""
    deadline = PASSES * found.costs[found.ladder[0]](each)
    rate = capacity(found, each, deadline)
    requests = Requests.drawn(count, each, len(found.images), SHARE)
    value = {
        n: (1 - SHARE) * float(found.clean_bits[n].mean()) + SHARE * float(found.attacked_bits[n].mean())
        for n in found.ladder
    }
    rows = []
    for name in NAMES:
        for load in LOADS:
            times = arrivals(name, load * rate, count)
            done: dict[str, list[Outcome]] = {}
            for label, policy in ways(found, deadline).items():
                used = controller(policy, found.served.measured, found.costs)
                limits = {"images": each, "most": MOST * each, "room": ROOM * each}
                done[label] = simulate(times, used, found.seconds(each), **limits)
            done["oracle"] = oracle(times, value, lambda p, n: found.costs[p](n * each), deadline, most=MOST)
            for label, outcomes in done.items():
                right = correct(outcomes, requests, found.clean_bits, found.attacked_bits)
                numbers = judged(outcomes, right, requests.attacked, deadline)
                row = {"how": "simulated", "trace": name, "load": load, "policy": label, **numbers}
                rows.append(row | _line(found, row, outcomes))
                shown(rows[-1])
    return [{**r, "deadline_ms": 1e3 * deadline, "capacity": rate, "images_per_request": each} for r in rows]


def live(run: str, found: Subject, each: int, seconds: float) -> list[dict[str, Any]]:
    """Some traces over HTTP, one server for each policy and replay."""
    deadline = PASSES * found.costs[found.ladder[0]](each)
    rate, rows = capacity(found, each, deadline), []
    for name, load in LIVE:
        count = int(seconds * load * rate)
        requests = Requests.drawn(count, each, len(found.images), SHARE)
        for label, policy in ways(found, deadline).items():
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
            rows.append(row | more | _line(found, row, made.outcomes))
            shown(rows[-1])
    return [{**r, "deadline_ms": 1e3 * deadline, "capacity": rate, "images_per_request": each} for r in rows]


def _line(found: Subject, row: dict[str, Any], outcomes: list[Outcome]) -> dict[str, Any]:
    """The first requests of a replay that is drawn: arrival, seconds to the answer, point."""
    if (row["trace"], row["load"]) != DRAWN or row["policy"] not in ("slack", f"only {found.ladder[0]}"):
        return {}
    return {"line": [[round(o.arrived, 4), round(o.took, 5), o.point] for o in outcomes[:LINE]]}


def shown(row: dict[str, Any]) -> None:
    """One line of a row on the terminal."""
    points = ", ".join(f"{n} {100 * s:.0f} %" for n, s in sorted(row["time_at"].items()))
    print(
        f"{row['how']} {row['trace']} at {row['load']:g}, {row['policy']}: effective accuracy clean "
        f"{100 * row['effective_clean']:.1f}, attacked {100 * row['effective_attacked']:.1f}; in time "
        f"{100 * row['slo']:.1f} %, refused {100 * row['refused']:.1f} %, p99 {row['p99_ms']:.1f} ms; {points}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder or a model file with named points")
    parser.add_argument("--ladder", required=True, help="points, the preferred one first")
    parser.add_argument("--live", action="store_true", help="replay over HTTP; else in simulated time")
    parser.add_argument("--images", type=int, default=400, help="test images")
    parser.add_argument("--requests", type=int, default=4000, help="of each simulated replay")
    parser.add_argument("--each", type=int, help=f"images of a request; default 1, and {LIVE_EACH} over HTTP")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each live replay, at a load of 1")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    each: int = given.each or (LIVE_EACH if given.live else 1)
    most = (LIVE_MOST if given.live else MOST) * each
    found = subject(given.run, tuple(given.ladder.split(",")), given.images, most)
    about = {
        "ladder": {
            n: {
                "at": found.served.points[n],
                "clean_accuracy": float(found.clean_bits[n].mean()),
                "robust_accuracy": float(found.attacked_bits[n].mean()),
                "ms": {str(size): 1e3 * s for size, s in found.costs[n].measured},
            }
            for n in found.ladder
        },
        "test_images": given.images,
        "attacked_share": SHARE,
        "attack": "pgd20",
        "artifact": found.served.artifact,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "seed": 0,
    }
    rows = live(given.run, found, each, given.seconds) if given.live else simulated(found, each, given.requests)
    old = read_timings(given.out) if given.out.is_file() else []
    kept = [r for r in old if (r["how"] == "live") != given.live]
    new = [{**r, **about} for r in rows]
    write_timings(given.out, kept + new if given.live else new + kept)


if __name__ == "__main__":
    main()
