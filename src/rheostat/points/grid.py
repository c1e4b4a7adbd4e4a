"""Grids of points as text, as the command line takes them."""

from __future__ import annotations

import itertools
import math

from rheostat.points.point import Point

HOW = "write robustness=0.3, robustness=0,0.5,1 or robustness=0:1:0.1"


def parse_grid(text: str) -> list[Point]:
    """Parse a grid of points: `robustness=0:1:0.1`, or `robustness=0,0.5,1 width=0.5` (all combinations).

    Each dial takes one number, a comma-separated list, or `first:last:step` (both ends included; the step divides
    the range). An empty text is the rest point. ValueError names the word that cannot be read, has no value or repeats
    a dial.
    """
    axes: dict[str, list[float]] = {}
    for word in text.replace(";", " ").split():
        name, sign, given = word.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"cannot read {word!r} as a dial; {HOW}")
        if name in axes:
            raise ValueError(f"the dial {name!r} is given twice in {text!r}; {HOW}")
        axes[name] = [value for part in given.split(",") for value in _values(word, part)]
    return [Point(**dict(zip(axes, chosen, strict=True))) for chosen in itertools.product(*axes.values())]


def _values(word: str, part: str) -> list[float]:
    """The values of a number or of `first:last:step`; ValueError if there are none."""
    if not part:
        raise ValueError(f"{word!r} gives no value; {HOW}")
    try:
        numbers = [float(v) for v in part.split(":")]
    except ValueError:
        raise ValueError(f"cannot read {word!r} as a dial; {HOW}") from None
    if not all(map(math.isfinite, numbers)) or len(numbers) not in (1, 3):
        raise ValueError(f"cannot read {word!r} as a dial; {HOW}")
    if len(numbers) == 1:
        return numbers
    first, last, step = numbers
    if step <= 0 or last < first:
        raise ValueError(f"cannot read {word!r}: {part} is an empty grid; it rises by a step above 0")
    steps = (last - first) / step
    if abs(steps - round(steps)) > 1e-6:
        raise ValueError(
            f"cannot read {word!r}: steps of {step:g} from {first:g} do not reach {last:g}; give a step that divides "
            "the range, or list the values"
        )
    return [*(round(first + i * step, 9) for i in range(round(steps))), last]
