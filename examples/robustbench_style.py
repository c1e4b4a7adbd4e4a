"""A `benchmark()` in RobustBench's shape, over all points of a dial: name and numbers under its keys."""

import json

import rheostat
from rheostat import data
from rheostat.attacks import named
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.target import Subject
from rheostat.evaluation.tiers import attacks_of
from rheostat.points.grid import parse_grid
from rheostat.reports.leaderboard import entry


def benchmark(
    model, *, n_examples=100, dataset="digits", eps=0.1, points="robustness=0,1", tier="standard"
):
    """RobustBench entries of a tunable model, one a point."""
    _, test = data.load(dataset)
    chosen = data.subset(test, n_examples)
    attacks = [named(n, eps=eps) for n in attacks_of(tier, len(test.classes))]
    rows = evaluate(Subject(model, "oat-digits"), parse_grid(points), attacks, chosen, tier=tier)
    return [entry(row) for row in rows if row["attack"]["name"] == "worst"]


for found in benchmark(rheostat.load("oat-digits"), n_examples=60):
    kept = ("name", "clean_acc", "autoattack_acc", "eps", "unreliable")
    print(
        json.dumps({**{k: found[k] for k in kept}, "robust_acc": found["rheostat"]["robust_acc"]})
    )
