"""Channel-structured sparsity: the rule, the exact zeros, the physically smaller network."""

from __future__ import annotations

import pytest
import torch

from rheostat import nets
from rheostat.methods.base import row_loss
from rheostat.methods.composition import compose
from rheostat.models import artifact
from rheostat.models.costs import observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.nn.masking import Masking
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from support import NETS, images_for

BLOCKS = ["resnet-8", "resnet-50", "wide_resnet", "mobilenet_v2"]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to float precision of the largest: three steps of training leave logits of any size."""
    return torch.allclose(a, b, rtol=0, atol=1e-5 * max(1.0, b.detach().abs().max().item()))


def maskings(model: Tunable) -> list[Masking]:
    return [m for m in model.modules() if isinstance(m, Masking)]


def trained(paper: str, net: str, epochs: int = 3, **options: object) -> Tunable:
    """A few steps, each ended like an epoch."""
    torch.manual_seed(0)
    model = Tunable(NETS[net](), compose(paper, structure="channel", density=0.5, **options))
    x, y = images_for(model, 12), torch.arange(12) % 10
    optimiser = torch.optim.SGD(model.parameters(), 0.003)
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(epoch)
        optimiser.zero_grad()
        for term in model.method.plan(12, generator):
            at = model.resolve(term.at, x[term.rows], phase=Phase.TRAIN, generator=generator)
            row_loss(model.read(x[term.rows], at), y[term.rows]).sum().backward()
        optimiser.step()
        model.method.after_step(model.net, epoch / epochs)
        model.method.after_epoch(model.net, epoch / epochs)
    return model


@pytest.mark.parametrize("paper", ["floats", "smart"])
@pytest.mark.parametrize("net", BLOCKS)
def test_channels_are_conserved_and_two_stay_everywhere(paper: str, net: str) -> None:
    before, after = trained(paper, net, 0), trained(paper, net)
    for path in range(len(maskings(before)[0].paths)):
        counts = [[int(m.paths[path].units().sum()) for m in maskings(x)] for x in (before, after)]
        assert sum(counts[0]) == sum(counts[1])
        assert min(counts[1]) >= 2
    moved = [
        bool((a.paths[0].mask != b.paths[0].mask).any()) for a, b in zip(maskings(before), maskings(after), strict=True)
    ]
    assert any(moved)


def test_the_average_sees_channels_left_out() -> None:
    model = trained("floats", "resnet-8", 1)
    paths = [m.paths[0] for m in maskings(model) if not m.paths[0].units().all()]
    assert paths
    for path in paths:
        assert path.average[:, ~path.units()].abs().sum() > 0


@pytest.mark.parametrize("net", BLOCKS)
def test_a_channel_left_out_is_nothing_and_is_cut_out(net: str) -> None:
    model = trained("floats", net)
    x, point = images_for(model), Point(robustness=1.0)
    before = model(x, point)
    model.method.finish(model.net)
    assert torch.equal(model(x, point), before)
    folded = fold(model, point)
    assert close(folded(x), before)
    dense, cut = observe(model, model.net.image, point), observe(folded, model.net.image)
    assert cut.macs == cut.macs_nonzero == dense.macs_nonzero
    assert cut.macs < 0.85 * dense.macs
    # What is stored of a channel left out is zero: filters, their readers, scale and shift.
    for group in [g for b in model.net.blocks for g in b.inner()]:
        masking = next(t for t in group.reader.transforms if isinstance(t, Masking))
        left_out = ~masking.paths[0].units()
        assert not group.reader.weight[:, left_out].any()
        assert not any(maker.weight[left_out].any() for maker in group.makers)
        for norm in group.norms:
            for name, parameter in norm.source.named_parameters():
                assert not parameter[left_out].any(), name


def test_paths_are_cut_apart_and_disjoint_when_asked() -> None:
    model = trained("smart", "resnet-8", overlap="disjoint")
    for masking in maskings(model):
        assert not (masking.paths[0].units() & masking.paths[1].units()).any()
    x = images_for(model)
    for level in (0.0, 1.0):
        folded = fold(model, Point(robustness=level))
        assert close(folded(x), model(x, Point(robustness=level)))
        assert observe(folded, model.net.image).macs < observe(model, model.net.image).macs


def test_attack_and_evaluation_see_the_same_network() -> None:
    model = trained("floats", "resnet-8")
    x, y = images_for(model), torch.arange(6)
    losses = [model.objective(y, Point(robustness=0.0), phase=phase)(x) for phase in (Phase.EVAL, Phase.ATTACK)]
    assert torch.allclose(*losses, atol=1e-6)


def test_a_file_holds_masks_and_not_what_only_training_needs(tmp_path) -> None:
    model = trained("floats", "resnet-8")
    x = images_for(model)
    again = artifact.load(artifact.save(tmp_path / "m.safetensors", model))
    assert torch.equal(again(x, Point(robustness=0.4)), model(x, Point(robustness=0.4)))
    assert not [k for k in model.stored() if k.endswith("average")]
    assert [k for k in model.state_dict() if k.endswith("average")]


def test_networks_without_inner_channels_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="outside the residual stream"):
        Tunable(nets.small_cnn(), compose("floats", structure="channel"))
    with pytest.raises(ValueError, match="did you mean 'channel'"):
        compose("smart", structure="chanel")
