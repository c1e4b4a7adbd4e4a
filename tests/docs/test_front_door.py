"""README and the results page stay short enough to be read."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def prose(text: str) -> str:
    """A page without code, tables, pictures and the targets of links."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"^\|.*$", "", text, flags=re.M)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)


def test_readme_is_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_no_sentence_of_readme_has_more_than_three_numbers() -> None:
    for sentence in re.split(r"(?<=[.?!])\s+|\n\s*\n|\n- ", prose(README)):
        numbers = re.findall(r"(?<![\w`-])\d+(?:\.\d+)?(?![\w`])", re.sub(r"`[^`]*`", "", sentence))
        assert len(numbers) <= 3, sentence


def test_readme_lists_at_most_eight_methods() -> None:
    table = README.partition("## Methods")[2].partition("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| [`")]
    assert 5 <= len(rows) <= 8


def test_readme_has_its_parts_in_order() -> None:
    parts = ["**Train one", "![", "**Use it if", "**Do not use it if", "## Install", "## A model that ships"]
    parts += ["## Your own network", "## Methods", "## Results", "## Citing"]
    places = [README.index(part) for part in parts]
    assert places == sorted(places)


def test_readmes_results_are_five_sentences_with_links() -> None:
    body = README.partition("<!-- results -->")[2].partition("<!-- end -->")[0]
    items = [line for line in body.splitlines() if line.startswith("- ")]
    assert len(items) == 5
    assert all("](docs/" in item for item in items)


def test_the_results_page_has_at_most_1500_words() -> None:
    assert len((ROOT / "docs" / "results.md").read_text().split()) <= 1500


def test_every_picture_of_a_page_has_a_text_for_those_who_cannot_see_it() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for text in re.findall(r"!\[([^\]]*)\]\(", page.read_text()):
            assert text.strip(), page
