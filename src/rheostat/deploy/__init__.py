"""From a trained model to a product: a chosen point, files for other runtimes, their latency."""

from rheostat.deploy.choosing import Choice, Need, choose
from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session
from rheostat.deploy.quantising import quantise

__all__ = ["Choice", "Need", "Session", "choose", "export", "quantise"]
