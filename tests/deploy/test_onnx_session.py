"""An ONNX file's description of itself is text from outside too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rheostat.deploy.onnx_session import _about

STAGES = {"stages": 3, "thresholds": [0.1, 2], "measure": "entropy"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        (json.dumps({"stages": 10**9}), "number of stages must be from 1 to 64"),
        (json.dumps({"stages": True}), "number of stages must be from 1 to 64"),
        (json.dumps({**STAGES, "stages": 0}), "number of stages must be from 1 to 64"),
        (json.dumps({**STAGES, "thresholds": [0.1]}), "has no threshold"),
        (json.dumps({**STAGES, "thresholds": [0.1, "x"]}), "has no threshold"),
        (json.dumps({**STAGES, "thresholds": [0.1, float("nan")]}), "has no threshold"),
        (json.dumps({**STAGES, "measure": "luck"}), "exit measure is not one of"),
    ],
    ids=range(10),
)
def test_a_description_that_cannot_be_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.onnx: .*{message}"):
        _about(Path("a.onnx"), text)


def test_descriptions_of_exported_files_are_read() -> None:
    assert _about(Path("a.onnx"), json.dumps(STAGES)) == STAGES
    assert _about(Path("a.onnx"), json.dumps({"live": ["robustness"]})) == {"live": ["robustness"]}
