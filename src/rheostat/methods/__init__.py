"""One way of conditioning per file; independent of one another."""

from rheostat.methods.dedicated import Dedicated
from rheostat.methods.dual import Dual
from rheostat.methods.exits import Exits
from rheostat.methods.experts import Experts
from rheostat.methods.film import Film
from rheostat.methods.masks import Masks
from rheostat.methods.mixing import Mixing
from rheostat.methods.noise import Noise
from rheostat.methods.slim import Slim

__all__ = ["Dedicated", "Dual", "Exits", "Experts", "Film", "Masks", "Mixing", "Noise", "Slim"]
