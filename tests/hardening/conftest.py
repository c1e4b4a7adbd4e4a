"""The table at the end: what was tried, how many times, and what came of it."""

from __future__ import annotations

import os
from collections import Counter

import pytest

TABLE: dict[str, Counter[str]] = {}


@pytest.fixture(scope="session")
def seconds() -> float:
    """How long each parser is tried: RHEOSTAT_HARDEN_SECONDS in all, shared among some ten of them."""
    return float(os.environ.get("RHEOSTAT_HARDEN_SECONDS", "20")) / 10


@pytest.fixture
def table(request: pytest.FixtureRequest) -> dict[str, Counter[str]]:
    """Kind of attempt → outcomes and how often."""
    return TABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TABLE:
        return
    terminalreporter.section("tried / how many / outcome")
    for kind, outcomes in TABLE.items():
        text = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
        terminalreporter.write_line(f"{kind:<34} {sum(outcomes.values()):>8}  {text}")
