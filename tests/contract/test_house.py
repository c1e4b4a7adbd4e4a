"""The house keeps its own rules: its rooms, its layers, its names, its size and its public surface."""

from __future__ import annotations

import ast
import importlib
import io
import pkgutil
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import rheostat

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "src" / "rheostat"
ROOMS = {
    *("points", "nn", "nets", "methods", "models", "data", "attacks", "training", "calibration", "evaluation"),
    *("results", "reports", "deploy", "serve", "cli", "runtime"),
}
BESIDE = {"benchmarks", "clients", "contract", "docs", "hardening"}
"""Folders of tests that are about no room."""
PUBLIC = {
    *("Attack", "Callback", "Dial", "EarlyStop", "EvaluationOptions", "FitOptions", "Need", "Point", "Recipe", "Stack"),
    *("TensorBoard", "Tunable", "fit", "plot", "push_to_hub", "training_step"),
    *("adopt", "calibrate_dial", "calibrate_norms", "choose", "compose", "evaluate", "export", "fit_policy", "fold"),
    *("load", "load_recipe", "observe", "read_rows", "save", "train"),
}
SOURCES = sorted(HOUSE.rglob("*.py"))
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(HOUSE)], "rheostat.") if m.name != "rheostat.__main__")
PACKAGES = ["rheostat", *(m for m in MODULES if (ROOT / "src" / m.replace(".", "/")).is_dir())]


def python_files() -> list[Path]:
    """Every Python file of the package, the tests and the benchmarks."""
    return [p for folder in ("src", "tests", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]


def layers() -> list[str]:
    """The layers of the import contract, from the top, each as it is written but for the package's name."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (contract,) = [c for c in tool["importlinter"]["contracts"] if c["type"] == "layers"]
    return [layer.replace("rheostat.", "") for layer in contract["layers"]]


# Rooms.


def test_the_folders_are_the_rooms() -> None:
    entries = {p.name for p in HOUSE.iterdir() if p.name != "__pycache__"}
    assert {name for name in entries if (HOUSE / name).is_dir()} == ROOMS
    assert entries - ROOMS <= {"__init__.py", "__main__.py", "py.typed"}


def test_every_room_says_what_it_is_for() -> None:
    for room in sorted(ROOMS):
        assert ast.get_docstring(ast.parse((HOUSE / room / "__init__.py").read_text())), room


def test_every_room_is_in_one_layer_of_at_most_fourteen() -> None:
    assert len(layers()) <= 14
    rooms = [room for layer in layers() for room in layer.split(" | ")]
    assert sorted(rooms) == sorted(ROOMS)


def test_the_picture_in_contributing_is_the_contract() -> None:
    (picture,) = re.findall(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert picture.split("\n")[:-1] == layers()


def test_tests_mirror_the_rooms() -> None:
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= ROOMS | BESIDE
    assert not list((ROOT / "tests").glob("test_*.py"))


# Names.


def bound(package: str) -> Iterator[tuple[str, str]]:
    """(name, what it is bound to) for each function, class, value or import at the top of an `__init__`."""
    source = ROOT / "src" / package.replace(".", "/") / "__init__.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, "a definition"
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((t.id, "a value") for t in targets if isinstance(t, ast.Name))


def shadows(package: str) -> list[str]:
    """Names that a package binds to something else than its own submodule of that name."""
    submodules = {m.rpartition(".")[2] for m in MODULES if m.rpartition(".")[0] == package}
    written = {name for name, what in bound(package) if name in submodules and what != f"{package}.{name}"}
    module = importlib.import_module(package)
    for name in submodules:
        importlib.import_module(f"{package}.{name}")
    found = {name for name in submodules if not isinstance(getattr(module, name), ModuleType)}
    exported = set(getattr(module, "__all__", ())) & submodules - {name for name, _ in bound(package)}
    return sorted(written | found | exported)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_export_shadows_a_module(package: str) -> None:
    assert shadows(package) == []


# Size.


@pytest.mark.parametrize("folder", ["src", "benchmarks"])
def test_no_file_is_longer_than_300_lines(folder: str) -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_the_formatter_is_seldom_switched_off() -> None:
    comments = [
        token.string
        for path in python_files()
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if token.type == tokenize.COMMENT
    ]
    assert sum("fmt: skip" in c or "fmt: off" in c for c in comments) <= 20


# Global state.

FORBIDDEN = {
    "sys.path": "the search path belongs to the application",
    "logging.basicConfig": "the root logger belongs to the application",
    "torch.set_num_threads": "only the command line chooses threads",
}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
"""Functions of `logging` that write to the root logger."""


def global_state(text: str, *, command_line: bool) -> list[str]:
    """What a source changes for the whole process: "line: what"; the command line owns its process."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in ("sys", "logging", "torch"):
            found += [f"{node.lineno}: {a.name}" for a in node.names if f"{node.module}.{a.name}" in FORBIDDEN]
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            written = name.startswith("logging.") and name.removeprefix("logging.") in LEVELS
            if not command_line and (name in FORBIDDEN or written):
                found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.Call) and ast.unparse(node) in ("logging.getLogger()", "getLogger()"):
            found.append(f"{node.lineno}: the root logger")
    return found


def test_global_state_is_recognised() -> None:
    for text in (
        "import sys\nsys.path.insert(0, '')",
        "import logging\nlogging.getLogger().setLevel(0)",
        "import logging\nlogging.warning('x')",
        "import logging\nlogging.basicConfig()",
        "import torch\ntorch.set_num_threads(2)",
        "from sys import path",
        "from torch import set_num_threads",
    ):
        assert len(global_state(text, command_line=False)) == 1, text
    own = "import logging, torch\nlogging.basicConfig(); torch.set_num_threads(1)"
    assert global_state(own, command_line=True) == []
    assert global_state("import logging\nlogging.getLogger('rheostat').info('x')", command_line=False) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_no_global_state(path: Path) -> None:
    assert global_state(path.read_text(), command_line=(HOUSE / "cli") in path.parents) == []


# The public surface.


def test_the_public_surface() -> None:
    assert {name for name in rheostat.__all__ if not name.startswith("_")} == PUBLIC
    seen = {name for name in dir(rheostat) if not name.startswith("_")}
    assert seen == PUBLIC | {"data"}
    assert all(getattr(rheostat, name) is not None for name in PUBLIC)


def uses(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) for everything of this package that a piece of code imports or reaches by `rheostat.NAME`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((a.name, "__name__") for a in node.names if a.name.split(".")[0] == "rheostat")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rheostat":
            yield from ((node.module or "", a.name) for a in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rheostat":
            yield "rheostat", node.attr


def test_what_readme_uses_exists() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    used = {use for block in blocks for use in uses(block)}
    assert ("rheostat", "load") in used
    assert [use for use in sorted(used) if not hasattr(importlib.import_module(use[0]), use[1])] == []
    assert {name for module, name in used if module == "rheostat"} <= PUBLIC | ROOMS | {"__name__"}
