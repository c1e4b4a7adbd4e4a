"""Consistency checks: images that do not match the model, and rows of another model or other data."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rheostat.data import Dataset
from rheostat.evaluation.rows import RowBuilder
from rheostat.models.artifact import check_finite
from rheostat.models.tunable import Tunable
from rheostat.results.row import Row
from rheostat.results.rows import add_rows, read_rows
from rheostat.runtime.distributed import Ranks


def check_fit(model: nn.Module, data: Dataset) -> None:
    """Raise ValueError unless the weights are finite, and image shape and number of classes match the model."""
    check_finite(dict(model.named_parameters()), type(model).__name__)
    if not isinstance(model, Tunable):
        return
    if data.image != tuple(model.net.image) or len(data.classes) != model.net.classes:
        shape, own = (" × ".join(map(str, image)) for image in (data.image, model.net.image))
        raise ValueError(
            f"{data.name} has images of {shape} and {len(data.classes)} classes, but the model takes {own} and "
            f"has {model.net.classes} classes"
        )


def is_stale(row: Row, builder: RowBuilder) -> bool:
    """Whether a row has the name of this run but belongs to another model, or to other data of the same name."""
    if row.run != builder.target.run:
        return False
    data = builder.dataset
    same = (row.dataset, row.split, row.n) == (data.name, builder.split, len(data))
    return row.artifact != builder.artifact or (same and row.dataset_hash not in (None, builder.fingerprint))


def forget(out: Path, builder: RowBuilder, asked: list[str]) -> None:
    """Drop the rows that are measured anew, and those of this run that belong to another model or other data."""
    if out.is_file():
        stale = [r.identity for r in read_rows(out) if is_stale(r, builder)]
        add_rows(out, [], drop=[*asked, *stale])


def refuse(row: Row, builder: RowBuilder) -> None:
    """Raise ValueError that says what a stale row was measured on and what to do."""
    if row.artifact != builder.artifact:
        what = f"another model ({row.artifact}, now {builder.artifact})"
    else:
        what = f"other data ({row.dataset_hash}, now {builder.fingerprint})"
    raise ValueError(
        f"{builder.options.out} holds rows of {row.run!r} measured on {what}; --fresh drops them, --name gives this "
        "run another name (in Python: EvaluationOptions(fresh=True) and name=)"
    )


def stored_rows(builder: RowBuilder, asked: list[str], ranks: Ranks | None = None) -> dict[str, Row]:
    """The rows in the file of the options, by identity; none without a file.

    With `options.fresh` the rows of `asked`, and stale ones, are dropped first. Raises ValueError for rows of another
    model or other data.
    """
    out, ranks = builder.options.out, ranks or Ranks()
    if out is None:
        return {}
    if builder.options.fresh and ranks.first:
        forget(out, builder, asked)
    ranks.wait()
    there = read_rows(out)
    stale = next((r for r in there if is_stale(r, builder)), None)
    if stale is not None:
        refuse(stale, builder)
    return {r.identity: r for r in there}
