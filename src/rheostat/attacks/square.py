"""Square: random search without gradients. Source: Andriushchenko et al., ECCV 2020; runs pyautoattack's code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from rheostat.attacks.base import Attack, TierEntry, register
from rheostat.attacks.budget import Streams
from rheostat.attacks.objective import Objective
from rheostat.attacks.reference import NAMES, Predict, Reference, labels_of, seed_from


def square(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    queries: int = 1000,
    rescaled: bool = False,
    seed: int = 0,
) -> Tensor:
    """Square: random search on the margin, (B, C, H, W) → (B, C, H, W). Without gradients, it detects masked ones.

    `eps` is in units of [0, 1]. The squares shrink along a schedule designed for 10 000 queries. Fewer
    queries use only its beginning, the large squares, unless `rescaled` compresses it to `queries`. Raises ValueError
    in L2 for some sizes of images (`check_tiles`).
    """
    from pyautoattack.square import SquareAttack

    check_tiles(norm, *images.shape[-2:])
    attack = SquareAttack(
        Predict(objective),
        norm=NAMES[norm],
        n_queries=queries,
        eps=eps,
        p_init=0.8,
        n_restarts=1,
        seed=seed % 2**31,
        verbose=False,
        device=images.device,
        resc_schedule=rescaled,
    )
    with torch.random.fork_rng(), torch.no_grad():
        return attack.perturb(images, labels_of(objective)).detach()


def check_tiles(norm: str, height: int, width: int, *, name: str = "square") -> None:
    """Raise ValueError for a size of images on which pyautoattack's Square cannot start in L2.

    It starts with tiles of a fifth of the height, from half of what five of them leave over, in both directions; the
    last tile of a row or a column must not cross the edge.
    """
    if norm != "l2":
        return
    side = height // 5
    start = (height - 5 * side) // 2
    if side < 1 or (side > 1 and any(start + side * (whole // side) > whole for whole in (height, width))):
        raise ValueError(
            f"{name} in L2 cannot take images of {height} × {width}: the tiles that Square starts with do not fit; "
            "name other attacks, such as --attack pgd20,apgd-ce"
        )


@register
class Square(Reference):
    """`square` (1 000 queries) and `squareN`: the beginning of a schedule for 10 000 queries; steps count queries."""

    name = "square"
    grammar: ClassVar[tuple[str, ...]] = ("square", "squareN")
    defaults: ClassVar[Mapping[str, object]] = {"steps": 1000, "loss": "margin"}
    honours = ("steps",)
    rescaled: ClassVar[bool] = False

    def parse(self, text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
        match = re.fullmatch(r"square(\d*)", text)
        return None if match is None else Attack(self.name, eps, int(match[1] or 1000), norm=norm)

    def check_size(self, attack: Attack, height: int, width: int) -> None:
        check_tiles(attack.norm, height, width, name=attack.name)

    def text(self, attack: Attack) -> str:
        return "square" if attack.steps == 1000 else f"square{attack.steps}"

    def run(
        self,
        attack: Attack,
        objective: Objective,
        images: Tensor,
        generator: Streams,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        return square(
            objective,
            images,
            eps=attack.eps,
            norm=attack.norm,
            queries=attack.steps,
            rescaled=self.rescaled,
            seed=seed_from(generator),
        )


@register
class RescaledSquare(Square):
    """`squareN-rescaled`: the whole schedule compressed to N queries, as the tiers run it."""

    name = "square-rescaled"
    grammar = ("squareN-rescaled",)
    defaults: ClassVar[Mapping[str, object]] = {"steps": 2000, "loss": "margin"}
    rescaled = True
    tiers = (TierEntry("square2000-rescaled", order=60, tiers=("standard", "full")),)

    def parse(self, text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
        match = re.fullmatch(r"square(\d+)-rescaled", text)
        return None if match is None else Attack(self.name, eps, int(match[1]), norm=norm)

    def text(self, attack: Attack) -> str:
        return f"square{attack.steps}-rescaled"
