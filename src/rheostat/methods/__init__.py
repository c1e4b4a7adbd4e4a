"""Methods: each file holds one independent way of conditioning a network; compositions of them have names."""

from rheostat.methods.base import Method, Stack, Term
from rheostat.methods.composition import COMPOSITIONS, METHODS, compose, compose_as, parse_method, register
from rheostat.methods.dedicated import Dedicated
from rheostat.methods.dual import Dual
from rheostat.methods.exits import Exits
from rheostat.methods.experts import Experts
from rheostat.methods.film import Film
from rheostat.methods.masks import Masks
from rheostat.methods.mixing import Mixing
from rheostat.methods.noise import Noise
from rheostat.methods.slim import Slim
from rheostat.runtime.registry import import_files

import_files(__name__, __path__)

__all__ = [
    "COMPOSITIONS",
    "METHODS",
    "Dedicated",
    "Dual",
    "Exits",
    "Experts",
    "Film",
    "Masks",
    "Method",
    "Mixing",
    "Noise",
    "Slim",
    "Stack",
    "Term",
    "compose",
    "compose_as",
    "parse_method",
    "register",
]
