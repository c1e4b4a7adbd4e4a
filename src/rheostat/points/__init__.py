"""Dials, operating points, grids of points as text, and the resolved point of one pass."""
