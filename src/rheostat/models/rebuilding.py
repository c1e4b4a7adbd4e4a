"""Rebuild an adopted network from its description in a model file and the caller's factory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.models.adoption import adopted
from rheostat.models.architecture import difference
from rheostat.models.factories import TIMM, Factory, from_name
from rheostat.models.validation import bounded, bytes_of
from rheostat.nets.adopted import Adopted

LARGEST = 8192
"""Maximum image side in pixels that a file may request."""


def rebuilt(
    spec: Mapping[str, Any],
    about: Mapping[str, Any],
    net: nn.Module | Factory | str | None,
    *,
    tensors: Mapping[str, Tensor],
    where: str,
) -> Adopted:
    """Build the network of a file's `spec` with `net`, or, if that is None, with the timm name in the file.

    Other hints in a file are never followed, because importing a module runs its code. A network that the
    file requests must not be larger than the file's `tensors`. ValueError says what to give, or how the built
    architecture differs from the file's.
    """
    _check(spec, about, where)
    hint = str(about.get("factory", ""))
    if net is None and not hint.startswith(TIMM):
        said = f"{hint!r} made it; if you trust that, give it" if hint else "give a function that makes that module"
        raise ValueError(
            f"{where} holds a {spec['of']} adopted from a user's module, which the file alone cannot rebuild: {said} "
            "as load(file, net=make) or --net package.module:function"
        )
    if net is None:
        _check_affordable(hint, tensors, where)
    found = adopted(
        hint if net is None else net,
        image=tuple(spec["image"]),
        mean=spec["mean"],
        std=spec["std"],
        exits=tuple(spec["exits"]),
    )
    if found.spec["architecture"] != spec["architecture"]:
        differs = difference(about["architecture"], found.architecture)
        raise ValueError(f"{where}: the given network is not the one in the file: {differs}")
    found.factory = found.factory or hint
    return found


def _check_affordable(hint: str, tensors: Mapping[str, Tensor], where: str) -> None:
    """ValueError if the network of a file's hint has more bytes than the file's tensors, or far more layers.

    The check takes no memory for tensors, and stops at the first layer that is too many.
    """
    held = bytes_of(tensors)
    try:
        with torch.device("meta"), bounded(tensors):
            asked = bytes_of(dict(from_name(hint).named_parameters()))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except (NotImplementedError, RuntimeError):
        raise ValueError(
            f"{where}: the size of {hint} cannot be checked; if you trust it, give --net {hint!r}"
        ) from None
    if asked > held:
        raise ValueError(f"{where}: its network {hint} has {asked:,} bytes of weights, its tensors {held:,}")


def _check(spec: Mapping[str, Any], about: Mapping[str, Any], where: str) -> None:
    """ValueError unless the file's description of its network has everything that rebuilding needs."""
    image, exits, lines = spec.get("image"), spec.get("exits"), about.get("architecture")
    whole = (
        *(isinstance(spec.get(name), str) for name in ("of", "architecture")),
        isinstance(image, list) and all(type(v) is int and 0 < v <= LARGEST for v in image),
        *(v is None or _numbers(v) for v in (spec.get("mean"), spec.get("std"))),
        *(isinstance(v, list) and all(isinstance(name, str) for name in v) for v in (exits, lines)),
    )
    if not all(whole):
        raise ValueError(f"{where}: the description of its adopted network is incomplete or damaged")


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(v) in (int, float) and math.isfinite(v) for v in value)
