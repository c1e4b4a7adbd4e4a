"""Seats (convolution, dense, norm) and the parts that methods give them."""

from rheostat.nn.layers import Conv, Dense, Dropout, Normalise, Transform, append, seats
from rheostat.nn.masking import Masking, Path, PathChoice
from rheostat.nn.norms import Modulation, Norm, NormChoice, NormSet, Source

__all__ = [
    "Conv",
    "Dense",
    "Dropout",
    "Masking",
    "Modulation",
    "Norm",
    "NormChoice",
    "NormSet",
    "Normalise",
    "Path",
    "PathChoice",
    "Source",
    "Transform",
    "append",
    "seats",
]
