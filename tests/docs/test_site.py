"""The site: what its navigation names exists, every page is reached, and it builds without a warning."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]


def leaves(nav: Any) -> list[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [page for item in items for page in leaves(item)]


def test_the_navigation_names_every_page_once() -> None:
    named = leaves(CONFIG["nav"])
    assert len(named) == len(set(named))
    assert set(named) == {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}


def test_no_page_links_to_what_the_site_does_not_have() -> None:
    """A link that leaves docs/ works in the repository and is dead on the site; the strict build does not say so."""
    for page in DOCS.rglob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).resolve().is_relative_to(DOCS), f"{page.name}: {target}"


def test_anything_is_three_clicks_away() -> None:
    def depth(nav: Any) -> int:
        if isinstance(nav, str):
            return 0
        if isinstance(nav, dict):
            return 1 + max(map(depth, nav.values()))
        return max(map(depth, nav))

    assert depth(CONFIG["nav"]) <= 3


def test_the_api_reference_documents_the_public_surface() -> None:
    text = "".join(p.read_text() for p in (DOCS / "api").glob("*.md"))
    named = re.findall(r"^::: (\S+)$", text, re.M)
    for name in named:
        module, _, last = name.rpartition(".")
        assert getattr(importlib.import_module(module), last).__doc__, name
    import rheostat

    public = {f"rheostat.{n}" for n in rheostat.__all__ if not n.startswith("__")}
    assert public <= set(named), sorted(public - set(named))


def test_every_method_has_a_page_with_its_parts() -> None:
    pages = [p for p in (DOCS / "methods").glob("*.md") if p.stem != "index"]
    assert len(pages) >= 10
    for page in pages:
        headings = re.findall(r"^## (.*)$", page.read_text(), re.M)
        assert headings == ["Paper", "Maths", "Departures", "Measured", "When to take it"], page.name
        maths = page.read_text().partition("```text\n")[2].partition("```")[0].splitlines()
        assert len(maths) <= 6, page.name


def test_the_site_loads_nothing_from_other_hosts() -> None:
    assert CONFIG["theme"]["font"] is False
    assert "extra_javascript" not in CONFIG
    assert all((DOCS / sheet).is_file() for sheet in CONFIG["extra_css"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zensical") is None, reason="needs the extra docs")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "src").symlink_to(ROOT / "src")
    for name in ("zensical.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    assert len(list(site.rglob("*.html"))) >= 50
    for page in site.rglob("*.html"):
        hosts = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?://[^"]*)"', page.read_text())
        assert not [h for h in hosts if "canonical" not in h], page
    assert "<h1" in (site / "api" / "models.html").read_text()
    assert "Tunable" in (site / "search.json").read_text()
