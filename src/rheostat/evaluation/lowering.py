"""Attacks in bf16 that are scored and finished in fp32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rheostat.attacks import Attack, Candidates, Objective
from rheostat.attacks.budget import Streams


def lowered(
    attack: Attack,
    objective: Objective | Candidates,
    images: Tensor,
    starts: Streams,
    *,
    share: tuple[Tensor, int],
    fooled: Callable[[Tensor], Tensor],
    thorough: bool = True,
) -> Tensor:
    """Adversarial images (B, C, H, W) of an attack in bf16, with the last steps in fp32 for images that did not fool.

    `fooled` scores images in fp32, (B, C, H, W) → (B,) bool. Images that fail there repeat the last quarter of the
    steps in fp32, starting from the result in bf16. With `thorough` False only those do that bf16 alone counts as
    fooled, because the attack may have stopped there early. `starts` and `share` are as in `Attack`.
    """
    low = objective.in_bf16()
    moved = attack(low, images, starts, share=share)
    left = (~fooled(moved)).nonzero()[:, 0]
    if not thorough and isinstance(low, Objective):
        with torch.no_grad():
            left = left[low.only(left).judge(moved[left])[1]] if len(left) else left
    if not len(left):
        return moved
    again = attack.finish(objective.only(left), images[left], moved[left])
    return moved.index_copy(0, left, again)
