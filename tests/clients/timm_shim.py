"""Makes torchvision importable beside the CPU build of torch, and timm with it.

torchvision's compiled operators are not loaded by that build, and registering their Python parts then fails; networks
need none of them. Nothing of Rheostat imports either package.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

REGISTRATIONS = ("torchvision._meta_registrations", "torchvision._autograd_registrations")


def timm() -> Any:
    """The package timm; skips the test where it is not installed."""
    for name in REGISTRATIONS:
        sys.modules.setdefault(name, ModuleType(name))
    return pytest.importorskip("timm", exc_type=ImportError)
