"""What does not belong together: a model and images that it does not take, rows of another model or other data."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rheostat.data import Dataset
from rheostat.evaluation.rows import RowBuilder
from rheostat.models.artifact import check_finite
from rheostat.models.tunable import Tunable
from rheostat.results.row import Row
from rheostat.results.rows import add_rows, read_rows


def check_fit(model: nn.Module, data: Dataset) -> None:
    """ValueError unless the weights are finite, and the images and classes are those of the model."""
    check_finite(dict(model.named_parameters()), type(model).__name__)
    if not isinstance(model, Tunable):
        return
    if data.image != tuple(model.net.image) or len(data.classes) != model.net.classes:
        shape, own = (" × ".join(map(str, image)) for image in (data.image, model.net.image))
        raise ValueError(
            f"{data.name} has images of {shape} and {len(data.classes)} classes, but the model takes {own} and "
            f"{model.net.classes}"
        )


def is_stale(row: Row, builder: RowBuilder) -> bool:
    """Whether a row is of this run, but of another model, or of other data under the same name."""
    if row.run != builder.target.run:
        return False
    data, options = builder.dataset, builder.options
    same = (row.dataset, row.split, row.n) == (data.name, options.split, len(data))
    return row.artifact != builder.artifact or (same and row.dataset_hash not in (None, builder.fingerprint))


def forget(out: Path, builder: RowBuilder, asked: list[str]) -> None:
    """Drop the rows that are measured anew, and those of this run that are of another model or other data."""
    if out.is_file():
        stale = [r.identity for r in read_rows(out) if is_stale(r, builder)]
        add_rows(out, [], drop=[*asked, *stale])


def refuse(row: Row, builder: RowBuilder) -> None:
    """ValueError that says what a stale row was measured on, and what to do."""
    if row.artifact != builder.artifact:
        what = f"another model ({row.artifact}, now {builder.artifact})"
    else:
        what = f"other data ({row.dataset_hash}, now {builder.fingerprint})"
    raise ValueError(
        f"{builder.options.out} holds rows of {row.run!r} measured on {what}; --fresh drops those, --name gives "
        "this one another name"
    )
