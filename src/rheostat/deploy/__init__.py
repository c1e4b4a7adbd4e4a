"""Deployment of a trained model: choose a point, export it for other runtimes, quantise it, measure latency."""

from rheostat.deploy.choosing import Choice, Need, choose
from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session
from rheostat.deploy.quantising import quantise

__all__ = ["Choice", "Need", "Session", "choose", "export", "quantise"]
