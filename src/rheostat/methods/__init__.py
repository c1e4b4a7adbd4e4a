"""One way of conditioning per file; independent of one another."""

from rheostat.methods.dedicated import Dedicated
from rheostat.methods.dual import Dual
from rheostat.methods.film import Film

__all__ = ["Dedicated", "Dual", "Film"]
