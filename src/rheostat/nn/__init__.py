"""Seats (convolution, dense, norm) and the parts that methods give them."""

from rheostat.nn.feature_norms import GroupNorm, LayerNorm
from rheostat.nn.layers import Conv, Dense, Dropout, Normalise, Transform, append, seats, weighted
from rheostat.nn.masking import Masking, Path, PathChoice
from rheostat.nn.norms import AffineSet, Modulation, Norm, NormChoice, NormSet, Source

__all__ = [
    "AffineSet",
    "Conv",
    "Dense",
    "Dropout",
    "GroupNorm",
    "LayerNorm",
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
    "weighted",
]
