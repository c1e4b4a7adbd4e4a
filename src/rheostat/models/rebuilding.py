"""An adopted network from what a model's file says of it, and what the caller gives to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rheostat.models.adoption import adopted
from rheostat.models.architecture import difference
from rheostat.models.factories import TIMM, Factory, from_name
from rheostat.nets.adopted import Adopted

LARGEST = 8192
"""The most pixels of a side that a file may ask for."""


def rebuilt(
    spec: Mapping[str, Any], about: Mapping[str, Any], net: nn.Module | Factory | str | None, *, held: int, where: str
) -> Adopted:
    """The network of a file's `spec`, made by `net` or, where that is None, by the timm name that the file holds.

    A file's other hints are never followed: importing a module runs its code. `held` are the bytes of the file's
    tensors, which the weights of a network that it asks for may not exceed. ValueError says what to give, or what
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
    if net is None:
        _check_affordable(hint, held, where)
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


def _check_affordable(hint: str, held: int, where: str) -> None:
    """ValueError where the network of a file's hint has more bytes than the file's tensors; it takes no memory."""
    try:
        with torch.device("meta"):
            asked = sum(p.numel() * p.element_size() for p in from_name(hint).parameters())
    except (NotImplementedError, RuntimeError):
        raise ValueError(
            f"{where}: the size of {hint} cannot be checked; if you trust it, give --net {hint!r}"
        ) from None
    if asked > held:
        raise ValueError(f"{where}: its network {hint} has {asked:,} bytes of weights, its tensors {held:,}")


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
