"""A `benchmark()` in RobustBench's shape, over all points of a dial: name and numbers under its keys."""

import json

import rheostat
from rheostat import data
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.tiers import attacks_of
from rheostat.reports.leaderboard import entry
from rheostat.results.labels import worst_rows


def benchmark(model, *, n_examples=100, dataset="digits", eps=0.1, points="robustness=0,1", tier="standard"):
    """RobustBench entries of a tunable model, one a point."""
    _, test = data.load(dataset)
    chosen = data.subset(test, n_examples)
    options = EvaluationOptions(tier=tier, name="oat-digits", eps=eps)
    rows = rheostat.evaluate(model, points, attacks_of(tier, len(test.classes)), chosen, options=options)
    return [entry(row) for row in worst_rows(rows)]


for found in benchmark(rheostat.load("oat-digits"), n_examples=60):
    kept = ("name", "clean_acc", "autoattack_acc", "eps", "unreliable")
    print(json.dumps({**{k: found[k] for k in kept}, "robust_acc": found["rheostat"]["robust_acc"]}))
