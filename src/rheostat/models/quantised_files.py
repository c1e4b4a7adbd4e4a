"""The int8 files of named points: which points have one, and where it lies, beside the model's file and on a hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

QUANTISED = ("int8", "int8-openvino")
"""Precisions in which a point is served as a file of its own."""
POINT_NAME = re.compile(r"[a-z][a-z0-9_-]*")
"""What a named point may be called; the name becomes part of a file's name."""


def beside(model_file: Path, name: str) -> Path:
    """Where the int8 file of a named point lies: beside the model's file."""
    return model_file.with_name(f"{model_file.stem}.{name}.int8.onnx")


def quantised_points(description: Mapping[str, Any]) -> list[str]:
    """The named points that are served as int8 files, from the unchecked description of a model's file."""
    measured = description.get("measured")
    return [
        name
        for name, numbers in (measured.items() if isinstance(measured, Mapping) else ())
        if POINT_NAME.fullmatch(name) and isinstance(numbers, Mapping) and numbers.get("precision") in QUANTISED
    ]
