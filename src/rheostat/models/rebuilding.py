"""An adopted network from what a model's file says of it, and what the caller gives to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from rheostat.models.adoption import adopted
from rheostat.models.architecture import difference
from rheostat.models.factories import TIMM, Factory
from rheostat.nets.adopted import Adopted

LARGEST = 8192
"""The most pixels of a side that a file may ask for."""


def rebuilt(
    spec: Mapping[str, Any], about: Mapping[str, Any], net: nn.Module | Factory | str | None, where: str
) -> Adopted:
    """The network of a file's `spec`, made by `net` or, where that is None, by the timm name that the file holds.

    A file's other hints are never followed: importing a module runs its code. ValueError says what to give, or what
    differs between the architecture of the file and the one that was made.
    """
    _check(spec, about, where)
    hint = str(about.get("factory", ""))
    if net is None and not hint.startswith(TIMM):
        said = f"{hint!r} made it; if you trust that, give it" if hint else "give a function that makes that module"
        raise ValueError(
            f"{where} holds a {spec['of']} adopted from a module of the user's own, which no file rebuilds: {said} "
            "as load(file, net=make) or --net package.module:function"
        )
    found = adopted(
        hint if net is None else net,
        image=tuple(spec["image"]),
        mean=spec["mean"],
        std=spec["std"],
        exits=tuple(spec["exits"]),
    )
    if found.spec["architecture"] != spec["architecture"]:
        differs = difference(about["architecture"], found.architecture)
        raise ValueError(f"{where}: the network that was made is not the one in the file: {differs}")
    found.factory = found.factory or hint
    return found


def _check(spec: Mapping[str, Any], about: Mapping[str, Any], where: str) -> None:
    """ValueError unless a file says of its network what rebuilding needs."""
    image, exits, lines = spec.get("image"), spec.get("exits"), about.get("architecture")
    whole = (
        *(isinstance(spec.get(name), str) for name in ("of", "architecture")),
        isinstance(image, list) and all(type(v) is int and 0 < v <= LARGEST for v in image),
        *(v is None or isinstance(v, list) for v in (spec.get("mean"), spec.get("std"))),
        *(isinstance(v, list) and all(isinstance(name, str) for name in v) for v in (exits, lines)),
    )
    if not all(whole):
        raise ValueError(f"{where}: what it says of its adopted network is not whole")
