"""Generate docs/row.md, the documentation of the row schema, from the pydantic models."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from rheostat.results.row import VERSION, Measurement, Row

HEAD = f"""# A result row

This page is generated from `rheostat.results.row`, version {VERSION} of the schema. A file of rows is `rows.jsonl` in a
run's folder, or a file of `benchmarks/results/`. It holds one JSON object per line, without the fields that do not
apply. A migration reads files of version 2 and of version 1, whose rows have no `version`. Accuracies are fractions.
Radii refer to pixels in [0, 1].

One file beside the rows, `rows.bits.safetensors`, holds the result for every image: for each row, under the row's
identity, a uint8 tensor (2, ceil(n / 8)) of clean and robust bits, most significant bit first. `read_rows(file)`
returns the rows, and `read_bits(file).of(row)` the bits of one row. Timings and costs have files of their own, which
`read_timings` reads.

A curve joins only rows that differ in nothing but the point: not in attack, tier, split or number of images.
"""


def page() -> str:
    """The page as Markdown: the measurement's fields, the results' fields, and every nested type."""
    own = [name for name in Row.model_fields if name not in Measurement.model_fields]
    parts = [
        HEAD,
        "## What is measured\n",
        _table(Row, list(Measurement.model_fields)),
        "## What was found\n",
        _table(Row, own),
    ]
    for model in _nested(Row):
        about = (model.__doc__ or "").strip().split("\n\n")[0]
        parts += [f"## {model.__name__}\n", f"{about}\n", _table(model, list(model.model_fields))]
    return "\n".join(parts)


def _table(model: type[BaseModel], names: list[str]) -> str:
    lines = ["| field | type | what it is |", "|---|---|---|"]
    for name in names:
        field = model.model_fields[name]
        must = "" if field.is_required() else ", optional"
        shown = field.alias or name
        lines.append(f"| `{shown}` | {_text(field.annotation)}{must} | {field.description} |")
    return "\n".join(lines) + "\n"


def _text(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        kept = [a for a in arguments if a is not type(None)]
        return "number" if set(kept) == {int, float} else " or ".join(map(_text, kept))
    if origin is Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if origin is list:
        return f"list of {_text(arguments[0])}"
    if origin is tuple:
        return f"({', '.join(map(_text, arguments))})"
    if origin is dict:
        return f"{{{_text(arguments[0])}: {_text(arguments[1])}}}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", float: "number", int: "whole number", bool: "true or false", Any: "any"}
    return names[annotation]


def _nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The models used in a model's fields, in order, each once."""
    found: dict[type[BaseModel], None] = {}

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.setdefault(annotation)
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for argument in get_args(annotation):
            visit(argument)

    for field in model.model_fields.values():
        visit(field.annotation)
    return list(found)
