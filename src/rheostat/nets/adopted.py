"""A user's own module as a network: blocks and the rest of its traced forward, over seats."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rheostat.nets.base import Net, Spec
from rheostat.nn.layers import Normalise

NAME = "adopted"
"""What a spec calls such a network; no registered one has this name."""


class Adopted(Net):
    """A traced module over seats, cut into blocks where everything later depends on one feature map.

    `architecture` are the lines that describe the traced forward, and `factory` says what made the module: a hint for
    whoever has to make it again ("package.module:function", or a timm name with its arguments).
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
        """Convolutions behind which no other layer with weights lies: they make the logits."""
        self.architecture, self.factory = architecture, factory
        self.spec = {"name": NAME, **spec}
