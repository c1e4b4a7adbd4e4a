"""What makes the repository easy to join: workflows, templates, hooks, metadata."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import rheostat

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.M))
KEYS = {
    "workflow": {"name", "on", "permissions", "concurrency", "env", "jobs"},
    "job": {"name", "if", "needs", "runs-on", "timeout-minutes", "strategy", "steps", "env", "permissions"},
    "step": {"name", "uses", "with", "run", "env", "if", "id"},
}
"""What GitHub's schema of workflows allows, as far as it is used here."""


def read(path: Path) -> dict[str, Any]:
    """A YAML file; YAML 1.1 reads the key `on` as true."""
    found = yaml.safe_load(path.read_text())
    return {"on" if k is True else k: v for k, v in found.items()}


def test_there_are_workflows_for_tests_docs_and_the_wheel() -> None:
    assert {p.stem for p in WORKFLOWS} == {"tests", "docs", "wheel"}
    pythons = read(ROOT / ".github/workflows/tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_has_the_keys_of_its_schema(path: Path) -> None:
    flow = read(path)
    assert set(flow) <= KEYS["workflow"]
    assert {"name", "on", "jobs"} <= set(flow)
    assert flow["permissions"] == {"contents": "read"}
    for job in flow["jobs"].values():
        assert set(job) <= KEYS["job"]
        assert {"runs-on", "timeout-minutes", "steps"} <= set(job)
        assert set([job.get("needs", [])] if isinstance(job.get("needs"), str) else job.get("needs", [])) <= set(
            flow["jobs"]
        )
        for step in job["steps"]:
            assert set(step) <= KEYS["step"]
            assert ("uses" in step) != ("run" in step), step
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
            for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
                assert target in TARGETS, target


@pytest.mark.skipif(shutil.which("check-jsonschema") is None, reason="needs check-jsonschema, of the extra dev")
@pytest.mark.parametrize(
    ("schema", "folder"), [("github-workflows", "workflows"), ("github-issue-forms", "ISSUE_TEMPLATE")]
)
def test_githubs_own_schemas_hold(schema: str, folder: str) -> None:
    files = [str(p) for p in (ROOT / ".github" / folder).glob("*.yml") if p.stem != "config"]
    command = ["check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_templates_and_hooks_are_readable() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.stem == "config":
            continue
        assert {"name", "description", "body"} <= set(form)
        assert {part["type"] for part in form["body"]} <= {"textarea", "checkboxes", "input", "markdown", "dropdown"}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {h["id"] for h in hooks} == {"ruff-check", "ruff-format", "mypy", "imports"}
    for name in ("CODE_OF_CONDUCT.md", "SECURITY.md", ".github/pull_request_template.md"):
        assert len((ROOT / name).read_text()) > 300


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == rheostat.__version__ == cited["version"]
    newest = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert newest == project["version"]


def test_the_changelog_is_kept_as_keep_a_changelog_says() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    allowed = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= allowed
    released = re.split(r"^## ", text, flags=re.M)[1]
    entries = [" ".join(entry.split()) for entry in re.split(r"\n(?=- |\n)", released)]
    stated = [entry for entry in entries if entry.startswith("- ")]
    assert len(stated) == len(set(stated)) > 1, "an entry stands twice"


def test_the_labels_of_the_projects_addresses_are_as_short_as_an_index_of_packages_asks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(len(label) <= 32 for label in project["urls"])


def test_the_core_needs_no_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[<>=\[]", d)[0] for d in project["dependencies"]}
    extras = {re.split(r"[<>=\[]", d)[0] for deps in project["optional-dependencies"].values() for d in deps}
    assert not core & (extras - {"rheostat"})
    demo = MAKEFILE.partition("\ndemo: ")[2].partition("\n")[0]
    assert demo == "$(VENV)/.core"
