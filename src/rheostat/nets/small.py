"""SmallCNN of the RDI-Nets paper (Hu et al., ICLR 2020, appendix) and a padded variant with norms."""

from __future__ import annotations

from rheostat.nets.base import Block, ConvBlock, FlatClassifier, Net, check_image, check_size, normaliser, register
from rheostat.nets.pieces import Features, Head, Pool
from rheostat.nn.layers import Conv
from rheostat.nn.norms import Norm


def small_head(net: Net, features: Features, number: int) -> Head:
    """Exit 1: 3×3 convolution (stride 2, half the channels), pool, FC; later exits: pool, FC. No ReLU between FCs."""
    c, h, w = features.channels, features.height, features.width
    pieces: list[Block] = []
    if number == 0:
        padded = bool(net.spec["padded"])
        out, pad = c // 2, int(padded)
        conv = Conv(c, out, stride=2, padding=pad, bias=not padded)
        pieces.append(ConvBlock(conv, Norm(out) if padded else None))
        c, h, w = out, (h + 2 * pad - 3) // 2 + 1, (w + 2 * pad - 3) // 2 + 1
    pieces.append(Pool(1))
    return Head(pieces, FlatClassifier(c * (h // 2) * (w // 2), (200, 200), net.classes, relu=False))


@register(exit_positions=lambda net: (0, 2), paper_head=small_head)
def small_cnn(
    *,
    padded: bool = True,
    base_width: int = 32,
    dropout: float = 0.5,
    classes: int = 10,
    image: tuple[int, int, int] = (1, 28, 28),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Net:
    """Four 3×3 convolutions (32, 32, pool, 64, 64, pool) and FC 200-200-classes.

    `padded=False` is the paper's network: no padding, with biases, no norms, images of at least 16×16 pixels.
    `padded=True` pads, and adds a norm after every convolution for methods that condition norms; at least 8×8 pixels.
    """
    channels, height, width = check_image("small_cnn", image, 8 if padded else 16)
    check_size("small_cnn", base_width=base_width, classes=classes)
    widths = (channels, base_width, base_width, 2 * base_width, 2 * base_width)
    blocks: list[Block] = []
    for i in range(4):
        conv = Conv(widths[i], widths[i + 1], padding=int(padded), bias=not padded, exact=i == 0)
        norm = Norm(widths[i + 1]) if padded else None
        blocks.append(ConvBlock(conv, norm, pool=i % 2 == 1))
        if not padded:
            height, width = height - 2, width - 2
        if i % 2 == 1:
            height, width = height // 2, width // 2
    return Net(
        blocks,
        FlatClassifier(widths[-1] * height * width, (200, 200), classes, dropout=dropout),
        image=(channels, *image[1:]),
        classes=classes,
        normalise=normaliser(channels, mean, std),
        stages=(1, 1, 1, 1),
    )
