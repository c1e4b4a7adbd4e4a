"""Compositions: methods put together under a name, and read back from their repr.

A method registers its class (`@register`), so that artifacts that hold it can be read; whoever has a
composition of methods to name calls `compose_as`, and recipes, contract tests and the command line see it.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from rheostat.methods.base import Method, Stack
from rheostat.runtime.choices import check_choice, nearest
from rheostat.runtime.registry import Registry, origin_of
from rheostat.runtime.typed import check_types

M = TypeVar("M", bound=Method)
VARIANTS = ("ours", "paper")


@dataclass(frozen=True)
class Composition:
    """A composition by name: its parts, and the options whose defaults are not those of the parts.

    Every option of a part is an option of the composition; where two parts have one of the same name,
    it is the first part's. `paper` holds the options whose values in the published recipe are not those of
    the composition: with them it is `variant="paper"`. None: no paper has this composition.
    """

    about: str
    parts: tuple[type[Method], ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    paper: Mapping[str, object] | None = None

    def options(self) -> dict[str, type[Method]]:
        """The names of the options and the part that each belongs to."""
        return {f.name: part for part in reversed(self.parts) for f in dataclasses.fields(cast(Any, part))}

    def preset(self, name: str, variant: str) -> dict[str, object]:
        """The options of a variant, "ours" or "paper"; ValueError where no paper has this composition."""
        check_choice(name, "variant", variant, VARIANTS)
        if variant == "paper" and self.paper is None:
            raise ValueError(f"{name} has no variant 'paper': no paper has this composition; allowed: ours")
        return {**self.defaults, **((self.paper or {}) if variant == "paper" else {})}


METHODS: Registry[type[Method]] = Registry("method", group="rheostat.methods")
COMPOSITIONS: Registry[Composition] = Registry("composition", group="rheostat.methods")


def register(kind: type[M]) -> type[M]:
    """Enter a method by its class name; a class decorator, above `@dataclass(frozen=True)`."""
    METHODS.register(kind.__name__, kind, origin=origin_of(kind))
    return kind


def compose_as(
    name: str, about: str, *parts: type[Method], paper: Mapping[str, object] | None = None, **defaults: object
) -> Composition:
    """Name a composition of methods; `defaults` are options whose defaults are not those of the parts.

    `paper` are the options of `variant="paper"` (see `Composition`).
    ValueError if the name is taken by other parts, or an option belongs to none of them.
    """
    found = Composition(about, parts, defaults, paper)
    known = found.options()
    for option in (*defaults, *(paper or {})):
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, known)}")
    return COMPOSITIONS.register(name, found, origin=origin_of(*parts))


def compose(name: str, *, variant: str = "ours", **options: object) -> Stack:
    """A composition by its name; ValueError names the nearest composition or option.

    `variant` "ours", or "paper": every option as the published recipe has it. Options that are given
    are taken in either.
    """
    composition = COMPOSITIONS.get(name)
    known = composition.options()
    given: dict[type[Method], dict[str, object]] = {part: {} for part in composition.parts}
    for option, value in {**composition.preset(name, variant), **options}.items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, [*known, 'variant'])}")
        given[known[option]][option] = tuple(value) if isinstance(value, list) else value
    for part, values in given.items():
        check_types(name, part, values)
    return Stack(*(part(**given[part]) for part in composition.parts))


def parse_method(text: str) -> Stack:
    """A stack from its repr, `Stack(Dual(...), Film(...))`, by its syntax: nothing is evaluated."""
    shown = text if len(text) <= 200 else f"{text[:200]}…"

    def value(node: ast.expr) -> object:
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise ValueError(
                f"not a plain value in a composition: {text[node.col_offset : node.end_col_offset]}"
            ) from None

    def call(node: ast.expr) -> tuple[str, ast.Call]:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError(f"not a composition: {shown!r}")
        if any(k.arg is None for k in node.keywords) or len({k.arg for k in node.keywords}) < len(node.keywords):
            raise ValueError(f"not a composition, its options are not each given once by name: {shown!r}")
        return node.func.id, node

    def part(node: ast.expr) -> Method:
        name, found = call(node)
        kind = METHODS.get(name)
        fields = {f.name for f in dataclasses.fields(cast(Any, kind))}
        options = {str(k.arg): value(k.value) for k in found.keywords}
        if found.args:
            raise ValueError(f"{name}: options are given by name")
        for option in options:
            if option not in fields:
                raise ValueError(f"{name} has no option {option!r}; {nearest(option, fields)}")
        check_types(name, kind, options)
        return kind(**options)

    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"not a composition: {shown!r}") from None
    name, outer = call(tree.body)
    if name == "Stack" and outer.keywords:
        raise ValueError("a Stack has no options")
    return Stack(*(part(a) for a in outer.args)) if name == "Stack" else Stack(part(tree.body))
