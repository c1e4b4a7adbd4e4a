"""docs/methods/: fills in the measured part of each page from the rows; the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

from filling import filled
from groups import steps
from markdown import dial, find, table
from needs import FASHION, MORE, ends, ran, relative_time
from plain import Row, read_rows_plain

FOLDER = Path(__file__).parents[2] / "docs" / "methods"
DATA = ("Fashion-MNIST", "CIFAR-10 subset")


def pages(rows: list[Row], results: Path) -> dict[str, str]:
    """Every page of docs/methods by name, with its measured part generated again.

    `rows` are those of the study and of its rivals.
    """
    took = steps(read_rows_plain(results / "speed.jsonl")) | {"pgd-at": 1.0}
    dense = find(rows, "pgd-at-1", None)[0]["params"]
    out = {}
    every = [*FASHION, *MORE]
    for method in every:
        text = (FOLDER / f"{method}.md").read_text()
        out[method] = filled(text, "measured", measured(rows, method))
    overview = table(
        ["method", "training time ÷ adversarial", "parameters ÷ plain", "epochs shown", "SA, t = 0", "RA, t = 1", "n"],
        [[f"[{m}]({m}.md)", *costs(rows, m, took, dense), *_ends(rows, m)] for m in every],
    )
    note = (
        "\nFashion-MNIST, seed 0, split `test`. Time is that of training on as many attacked images. RA is measured "
        "under white-box PGD-20 (tier `quick`) made at the scored point.\n"
    )
    out["index"] = filled((FOLDER / "index.md").read_text(), "measured", overview + note)
    return out


def some_row(rows: list[Row], run: str) -> Row | None:
    """Any worst-case row of a run, over the most images."""
    return next(iter(dial(rows, run) or find(rows, run, None)), None)


def measured(rows: list[Row], method: str) -> str:
    """The table of one page, and the settings of its rows."""
    body = []
    for number, data in enumerate(DATA):
        run = ran(rows, method, number)
        row = some_row(rows, run)
        if row is None:
            body.append([data, "not yet run", "", "", "", "", ""])
            continue
        epochs = str(row["train"]["epochs"])
        body.append([data, epochs, f"{row['params']:,}", *ends(rows, run), str(row["n"])])
    head = ["", "epochs", "parameters", "SA, clean end", "SA / RA, middle", "RA, robust end", "n"]
    return (
        table(head, body)
        + "\nIn per cent, with exact 95 % intervals, on the `test` split. RA is measured under white-box "
        "PGD-20 (tier `quick`) made at the scored point; live exits are attacked in every form. Training used 10 000 "
        "images and seed 0. More: [results](../results.md).\n"
    )


def costs(rows: list[Row], method: str, took: dict[str, float], dense: int) -> list[str]:
    """Training time ÷ that of adversarial training on as many attacked images, and parameters ÷ plain; or blank."""
    row = some_row(rows, ran(rows, method, 0))
    if row is None:
        return ["not measured", ""]
    time = relative_time(method, row["train"]["epochs"], took)
    return [
        "not measured" if time is None else f"{time:.1f}",
        "" if method == "rdi" else f"{row['params'] / dense:.2f}",
    ]


def _ends(rows: list[Row], method: str) -> list[str]:
    run = ran(rows, method, 0)
    clean, _, robust = ends(rows, run)
    row = some_row(rows, run)
    return ["", clean, robust, ""] if row is None else [str(row["train"]["epochs"]), clean, robust, str(row["n"])]
