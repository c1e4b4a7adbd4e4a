"""One vocabulary: words that readers stumbled over do not come back, and the English is British."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted((ROOT / "src").rglob("*.j2")),
    *sorted((ROOT / "src").rglob("*.toml")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.py")),
    *sorted(ROOT.glob("*.md")),
]
INSTEAD = {
    r"(told|tell|tells) apart": "not significantly different; distinguish",
    r"dear(er|est)?": "slow, expensive",
    r"gone round|go(es)? round": "works around",
    r"mean what they say": "calibration",
    r"exchange rate": "balance",
    r"keeps its limits by": "meets your limits with",
    r"before left standing|left standing": "failed to fool",
    r"waits for company": "maximum time to wait while filling a batch",
    r"Who has it may": "bearer token required",
    r"by nature": "always in eval mode",
    r"who still stands": "still classified right",
    r"leaves the laboratory": "is deployed",
    r"strewn": "unstructured",
    r"this very hour|twofold|thereof|whereof|hitherto": "plain words",
}
AMERICAN = (
    r"(behaviors?|neighbors?|favor(s|ed|ite)?|modeling|labeled|"
    r"(normali|initiali|randomi|quanti|maximi|summari|recogni|generali)z(e|es|ed|ation))\b"
)
"""Not `color`, `gray` and `optimize`, which are names of Matplotlib and SciPy."""


def prose(path: Path) -> str:
    """A text without code, names of other libraries and titles of papers."""
    text = path.read_text()
    if path.suffix == ".md":
        text = re.sub(r"```.*?```", "", text, flags=re.S)
    return re.sub(r"`[^`\n]*`", "", text)


@pytest.mark.parametrize("phrase", INSTEAD)
def test_a_phrase_that_readers_stumbled_over_is_gone(phrase: str) -> None:
    wanted = re.compile(rf"\b({phrase})\b", re.I)
    found = [f"{p.relative_to(ROOT)}: {m[0]!r}" for p in TEXTS for m in wanted.finditer(prose(p))]
    assert not found, f"write {INSTEAD[phrase]!r} instead: {found}"


def test_the_english_is_british() -> None:
    called = re.compile(r"(?<![.\w])" + AMERICAN + r"(?!\s*[=(])")
    found = [f"{p.relative_to(ROOT)}: {m[0]!r}" for p in TEXTS for m in called.finditer(prose(p))]
    assert not found, found


def test_the_test_can_see_a_phrase(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("The step is dearer.\n```python\ndear = 1\n```\n`dear`\n")
    assert re.findall(r"\bdear(er|est)?\b", prose(page)) == ["er"]
