"""Evaluation: points × attacks, or points × common corruptions → rows, with checks, tiers and resumption."""

from rheostat.evaluation.corrupted import evaluate_corruptions
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.lookup import Request
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target

__all__ = ["EvaluationOptions", "Request", "Target", "evaluate", "evaluate_corruptions"]
