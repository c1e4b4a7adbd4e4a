"""Attack in bf16, judge in fp32: an attack whose passes are of low precision, finished in full."""

from __future__ import annotations

from collections.abc import Callable

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
) -> Tensor:
    """Adversarial images (B, C, H, W): an attack in bf16, and its last steps in fp32 where they did not fool.

    `fooled` judges images in fp32, (B, C, H, W) → (B,) bool: what fools in bf16 alone is attacked once more, by the
    last quarter of the attack's steps from where it ended. `starts` and `share` as in `Attack`.
    """
    moved = attack(objective.in_bf16(), images, starts, share=share)
    left = (~fooled(moved)).nonzero()[:, 0]
    if not len(left):
        return moved
    again = attack.finish(objective.only(left), images[left], moved[left])
    return moved.index_copy(0, left, again)
