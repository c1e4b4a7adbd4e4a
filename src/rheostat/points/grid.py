"""Grids of points as text, as the command line takes them."""

from __future__ import annotations

import itertools

from rheostat.points.point import Point


def parse_grid(text: str) -> list[Point]:
    """Points from a CLI text: `robustness=0:1:0.1`, `robustness=0,0.5,1 width=0.5` (all pairs).

    A dial is followed by one number, a comma list, or `first:last:step` (both ends included).
    """
    axes: list[list[tuple[str, float]]] = []
    for word in text.replace(";", " ").split():
        name, sign, given = word.partition("=")
        try:
            if not sign:
                raise ValueError
            values: list[float] = []
            for part in given.split(","):
                if ":" in part:
                    first, last, step = (float(v) for v in part.split(":"))
                    if step <= 0:
                        raise ValueError
                    count = int((last - first) / step + 1e-6) + 1
                    values += [round(first + i * step, 9) for i in range(count)]
                else:
                    values.append(float(part))
        except ValueError:
            raise ValueError(
                f"cannot read {word!r} as a dial; write robustness=0.3, robustness=0,0.5,1 or robustness=0:1:0.1"
            ) from None
        axes.append([(name, v) for v in values])
    return [Point(**dict(combination)) for combination in itertools.product(*axes)]
