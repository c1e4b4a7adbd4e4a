"""Consistency checks: images that do not match the model, and rows of another model or other data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rheostat.data import Dataset, to_pixels
from rheostat.data.base import check_order
from rheostat.evaluation.rows import RowBuilder
from rheostat.evaluation.target import Target
from rheostat.models.artifact import check_finite
from rheostat.models.tunable import Tunable
from rheostat.results.row import Row
from rheostat.results.rows import add_rows, read_rows
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import preserved


def check_fit(target: Target, data: Dataset) -> None:
    """Raise ValueError unless the weights are finite, and the images and their classes match the model."""
    model = target.model
    check_finite(dict(model.named_parameters()), type(model).__name__)
    if not isinstance(model, Tunable):
        _check_logits(target, data)
        return
    if data.image != tuple(model.net.image) or len(data.classes) != model.net.classes:
        shape, own = (" × ".join(map(str, image)) for image in (data.image, model.net.image))
        raise ValueError(
            f"{data.name} has images of {shape} and {len(data.classes)} classes, but the model takes {own} and "
            f"has {model.net.classes} classes"
        )
    named = target.about if target.about.classes else model.about
    if named is not None:
        check_order(data.name, data.classes, named.classes)


def _check_logits(target: Target, data: Dataset) -> None:
    """Raise ValueError unless a plain module gives logits (n, K) for the K classes; it is afterwards as it was."""
    model, classes = target.model, len(data.classes)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = to_pixels(data.images[:2]).to(device)  # norms in train mode need two
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    shape = " × ".join(map(str, data.image))
    with torch.no_grad(), preserved(device):
        try:
            found = model(images)
        except Exception as error:  # the user's own code may raise anything
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{target.run} failed on images of {shape}: it raised {type(error).__name__}: {reason}"
            ) from error
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
    if isinstance(found, Tensor) and found.shape == (len(images), classes):
        return
    given = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise ValueError(
        f"{target.run} gives {given} for {len(images)} images of {shape}, but the {classes} classes of {data.name} "
        f"need logits, a tensor ({len(images)}, {classes})"
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
