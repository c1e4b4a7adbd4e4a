"""Compositions: named combinations of methods, which can be parsed from their repr.

A method registers its class (`@register`), so that model files which contain it can be read. `compose_as` names a
composition of methods, so that recipes, contract tests and the command line can use it.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from rheostat.methods.base import Method, Stack
from rheostat.runtime.choices import check_choice, nearest
from rheostat.runtime.plain import plain
from rheostat.runtime.registry import Registry, origin_of
from rheostat.runtime.typed import check_types

M = TypeVar("M", bound=Method)
VARIANTS = ("ours", "paper")


@dataclass(frozen=True)
class Composition:
    """A named composition: its parts, and the options whose defaults differ from those of the parts.

    Every option of a part is an option of the composition; if two parts share an option's name, it belongs to the
    first. `paper` holds the options whose values in the published recipe differ from the composition's;
    `variant="paper"` applies them. None means that no paper describes this composition.
    """

    about: str
    parts: tuple[type[Method], ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    paper: Mapping[str, object] | None = None

    def options(self) -> dict[str, type[Method]]:
        """Option name → the part that it belongs to."""
        return {f.name: part for part in reversed(self.parts) for f in dataclasses.fields(cast(Any, part))}

    def preset(self, name: str, variant: str) -> dict[str, object]:
        """The options of a variant, "ours" or "paper"; ValueError if no paper describes this composition."""
        check_choice(name, "variant", variant, VARIANTS)
        if variant == "paper" and self.paper is None:
            raise ValueError(f"{name} has no variant 'paper': no paper describes this composition; allowed: ours")
        return {**self.defaults, **((self.paper or {}) if variant == "paper" else {})}


METHODS: Registry[type[Method]] = Registry("method", group="rheostat.methods")
COMPOSITIONS: Registry[Composition] = Registry("composition", group="rheostat.methods")


def register(kind: type[M]) -> type[M]:
    """Register a method under its class name. Use it as a class decorator, above `@dataclass(frozen=True)`."""
    METHODS.register(kind.__name__, kind, origin=origin_of(kind))
    return kind


def compose_as(
    name: str, about: str, *parts: type[Method], paper: Mapping[str, object] | None = None, **defaults: object
) -> Composition:
    """Name a composition of methods. `defaults` are options whose defaults differ from those of the parts.

    `paper` holds the options of `variant="paper"` (see `Composition`).
    ValueError if the name already belongs to other parts, or if an option belongs to none of the parts.
    """
    found = Composition(about, parts, defaults, paper)
    known = found.options()
    for option in (*defaults, *(paper or {})):
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, known)}")
    return COMPOSITIONS.register(name, found, origin=origin_of(*parts))


def compose(name: str, *, variant: str = "ours", **options: object) -> Stack:
    """Build a composition by its name; ValueError names the nearest composition or option.

    `variant` is "ours", or "paper", which sets every option as the published recipe does. Explicit options override
    both.
    """
    composition = COMPOSITIONS.get(name)
    known = composition.options()
    given: dict[type[Method], dict[str, object]] = {part: {} for part in composition.parts}
    for option, value in {**composition.preset(name, variant), **options}.items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, [*known, 'variant'])}")
        given[known[option]][option] = plain(value)
    for part, values in given.items():
        check_types(name, part, values)
    return Stack(*(part(**given[part]) for part in composition.parts))


def parse_method(text: str) -> Stack:
    """Parse a stack from its repr, `Stack(Dual(...), Film(...))`, without evaluating any code."""
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
            raise ValueError(f"not a composition: each option must be given once, by name: {shown!r}")
        return node.func.id, node

    def part(node: ast.expr) -> Method:
        name, found = call(node)
        kind = METHODS.get(name)
        fields = {f.name for f in dataclasses.fields(cast(Any, kind))}
        options = {str(k.arg): value(k.value) for k in found.keywords}
        if found.args:
            raise ValueError(f"{name}: options must be given by name")
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
