"""Modules that adoption refuses before it traces them, because it would lose or double a part of them."""

from __future__ import annotations

from torch import Tensor, nn

from rheostat.models import seating
from rheostat.models.seating import LAYERS, OWN_STATE


def refuse(module: nn.Module) -> None:
    """ValueError that names layers that no seat can replace.

    They keep statistics, draw noise, have hooks (which tracing does not see) or computed tensors, or share a parameter.
    """
    for name, layer in module.named_modules():
        place = f"layer {name!r} ({type(layer).__name__})" if name else f"the {type(layer).__name__}"
        lazy = isinstance(layer, nn.modules.lazy.LazyModuleMixin)  # the hook of such a layer removes itself
        if (layer._forward_hooks or layer._forward_pre_hooks) and not lazy:
            raise ValueError(
                f"cannot adopt {place}: it has a forward hook, which would be lost; remove the hook, or the weight "
                "norm, spectral norm or pruning that it belongs to"
            )
        for key, value in vars(layer).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise ValueError(
                    f"cannot adopt {place}: its {key} is computed from other tensors; store it as a parameter or a "
                    "buffer"
                )
        if type(layer) is nn.Conv2d:
            seating.padding_of(name, layer)
    _refuse_ties(module)
    bad = [
        f"{name!r} ({type(layer).__name__})"
        for name, layer in module.named_modules()
        if isinstance(layer, OWN_STATE)
        or (isinstance(layer, nn.modules.dropout._DropoutNd) and type(layer) is not nn.Dropout)
        or (isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0)
    ]
    if bad:
        allowed = ", ".join(k.__name__ for k in LAYERS)
        raise ValueError(
            f"cannot adopt layers {', '.join(bad)}: they keep their own statistics or draw their own "
            f"noise; layers that become seats: {allowed}"
        )


def _refuse_ties(module: nn.Module) -> None:
    """ValueError if two layers share a parameter, because adoption would copy it for each."""
    places: dict[int, str] = {}
    for name, layer in module.named_modules():
        for key, parameter in layer.named_parameters(name, recurse=False):
            first = places.setdefault(id(parameter), key)
            if first != key:
                raise ValueError(
                    f"cannot adopt {key!r}: it is the same parameter as {first!r}, and adoption would make them two; "
                    "give each its own, or call one layer twice"
                )
