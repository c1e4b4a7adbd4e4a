"""Terms: the part of a term on one rank."""

from __future__ import annotations

import pytest
import torch

from rheostat import Point, nets
from rheostat.methods import compose
from rheostat.methods.terms import Term
from rheostat.models.tunable import Tunable
from rheostat.nn.masking import PathChoice
from rheostat.nn.norms import NormChoice
from rheostat.points.phase import Phase


@pytest.mark.parametrize("paper", ["oat", "smart"])
def test_a_rank_without_rows_of_a_term_makes_the_pass_of_the_others(paper: str) -> None:
    """Ranks sum the statistics of a pass, so all of them must use the same norms and paths."""
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(3, 8, 8)), compose(paper))
    point = Point(robustness=torch.tensor([0.3, 0.6, 0.3, 0.6]))
    whole = Term(torch.arange(4), point, images="adversarial", weight=torch.ones(4))
    chosen = []
    for first, last in ((0, 4), (4, 8)):
        part = whole.local(first, last)
        x = torch.zeros(len(part.rows), 3, 8, 8)
        at = model.resolve(part.at, x, phase=Phase.TRAIN)
        assert model.read(x, at).logits.shape == (len(part.rows), 10)
        chosen.append((at.get(NormChoice), at.get(PathChoice)))
    assert chosen[0] == chosen[1]
