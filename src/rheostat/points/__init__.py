"""Dials, operating points, grids of points as text, and the resolved point of one pass."""

from rheostat.points.dial import Dial
from rheostat.points.dial_map import DialMap
from rheostat.points.grid import parse_grid
from rheostat.points.phase import Phase
from rheostat.points.point import Point, Value
from rheostat.points.resolved import Level, Resolved

__all__ = ["Dial", "DialMap", "Level", "Phase", "Point", "Resolved", "Value", "parse_grid"]
