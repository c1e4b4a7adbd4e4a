"""A user's module as a network: its traced forward over seats, cut into blocks and a remainder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rheostat.nets.base import Net, Spec
from rheostat.nn.layers import Normalise

NAME = "adopted"
"""The name of such a network in a spec; no registered network has this name."""


class Adopted(Net):
    """A traced module over seats, cut into blocks where all later layers depend on a single feature map.

    `architecture` holds the lines that describe the traced forward. `factory` names what made the module
    ("package.module:function", or a timm name with its arguments), as a hint for rebuilding it. `home` is the device of
    that module.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        rest: nn.Module,
        *,
        image: tuple[int, int, int],
        classes: int,
        normalise: Normalise,
        architecture: tuple[str, ...],
        factory: str,
        spec: Spec,
    ) -> None:
        super().__init__(blocks, rest, image=image, classes=classes, normalise=normalise)
        self.exit_layers: tuple[str, ...] = ()
        """Names of layers that an exit can follow."""
        self.conv_heads: tuple[str, ...] = ()
        """Convolutions that no other layer with weights follows: they compute the logits."""
        self.own_names: dict[str, str] = {}
        """Names in the module of tensors that a seat holds under another name, such as the statistics of norms."""
        self.home = torch.device("cpu")
        self.architecture, self.factory = architecture, factory
        self.spec = {"name": NAME, **spec}
