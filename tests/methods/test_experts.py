"""Two expert paths: their masks, their gradients, what lies between them."""

from __future__ import annotations

import pytest
import torch

from rheostat import nets
from rheostat.attacks import Attack
from rheostat.methods import Dual, Experts, Film, Masks, Method, Noise, Stack
from rheostat.methods.base import row_loss
from rheostat.methods.composition import compose
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv
from rheostat.nn.masking import Masking
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from support import images_for, make, paths, train_step


def test_initial_masks_are_exact() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("floats", density=0.3))
    for path in paths(model):
        assert path.nonzeros == round(0.3 * path.mask.numel())


def test_each_path_is_its_own_masked_network() -> None:
    model = make("smart", "resnet-8")
    plain = make("pgd-at", "resnet-8")
    x = images_for(model)
    for end, norm in ((0, "clean"), (1, "adversarial")):
        state = {
            k.replace(f"source.{norm}.", "source."): v
            for k, v in model.state_dict().items()
            if "transforms" not in k and f".{'clean' if end else 'adversarial'}." not in k
        }
        for name, conv in model.named_modules():
            if isinstance(conv, Conv):
                mask = conv.transforms[0].paths[end].mask
                state[f"{name}.weight"] = conv.weight.detach() * mask
        plain.load_state_dict(state)
        assert torch.allclose(model(x, Point(robustness=float(end))), plain(x), atol=1e-5)


def test_between_the_ends_logits_are_mixed_at_two_passes() -> None:
    model = make("smart", "resnet-8")
    x = images_for(model)
    ends = [model(x, Point(robustness=v)) for v in (0.0, 1.0)]
    assert torch.allclose(model(x, Point(robustness=0.3)), 0.7 * ends[0] + 0.3 * ends[1], atol=1e-5)
    one, two = (observe(model, (3, 8, 8), Point(robustness=v)).macs for v in (1.0, 0.3))
    assert two == 2 * one


def test_each_path_learns_from_its_own_gradients() -> None:
    model = make("smart", "resnet-8")
    x, y = images_for(model), torch.zeros(6, dtype=torch.long)
    at = model.resolve(Point(robustness=1.0), x, phase=Phase.TRAIN)
    row_loss(model.read(x, at), y).sum().backward()
    for masking in (m for m in model.modules() if isinstance(m, Masking)):
        assert not masking.paths[0].pending.any()
        assert masking.paths[1].pending.any()


def test_a_transfer_attack_through_the_other_path_is_weaker(digits) -> None:
    from rheostat.training.loop import train
    from rheostat.training.recipe import load_recipe

    chosen = load_recipe(
        "oat-digits",
        changes=[
            "paper=smart",
            "method={}",
            "train.epochs=12",
            "calibrate_dial=false",
            "select.every=99",
            "select.images=20",
        ],
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model = train(chosen, out=folder).model
    x, y = digits[1].images / 255, digits[1].labels
    attack = Attack("pgd", 0.1, 10)
    robust = Point(robustness=1.0)
    hit = []
    for point in (robust, Point(robustness=0.0)):
        moved = attack(model.objective(y, point), x, torch.Generator().manual_seed(0))
        with torch.no_grad():
            hit.append(float((model(moved, robust).argmax(1) == y).float().mean()))
    assert hit[0] + 0.05 < hit[1]


@pytest.mark.parametrize("overlap", ["free", "disjoint"])
@pytest.mark.parametrize("masks", ["learned", "random"])
@pytest.mark.parametrize("shared", [0, 2])
def test_options_of_experts(overlap: str, masks: str, shared: int) -> None:
    torch.manual_seed(0)
    model = Tunable(
        nets.resnet(depth=8, base_width=4, image=(3, 8, 8)),
        compose("smart", overlap=overlap, masks=masks, shared_stages=shared),
    )
    found = [m for m in model.modules() if isinstance(m, Masking)]
    assert len(found) == (9 if not shared else 6)  # stem and stage 1 hold three convolutions
    counts = [[p.nonzeros for p in m.paths] for m in found]
    totals = [sum(c) for c in zip(*counts, strict=True)]
    for i in range(3):
        train_step(model, i)
        model.method.after_epoch(model.net, 0.3 * i)
    after = [[p.nonzeros for p in m.paths] for m in found]
    assert [sum(c) for c in zip(*after, strict=True)] == totals
    assert (after == counts) == (masks == "random")
    if overlap == "disjoint":
        assert all(not (m.paths[0].mask * m.paths[1].mask).any() for m in found)


def test_impossible_experts_and_masks_are_named() -> None:
    for options, message in (
        ({"density": 0.6, "overlap": "disjoint"}, "at most 0.5 with disjoint"),
        ({"masks": "lerned"}, "did you mean 'learned'"),
        ({"shared_stages": -1}, "at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            compose("smart", **options)
    with pytest.raises(ValueError, match="below the 4 stages"):
        Tunable(nets.resnet(depth=8), compose("smart", shared_stages=4))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Masks(density=1.0)


@pytest.mark.parametrize("others", [(Film(),), (Noise(),), (Film(), Noise())])
def test_between_the_ends_each_path_is_that_of_its_end(others: tuple[Method, ...]) -> None:
    """Both paths took the code and the noise of the λ between."""
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), Stack(Dual(), *others, Experts()))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = images_for(model, 3)
    clean, robust = model(x, Point(robustness=0.0)), model(x, Point(robustness=1.0))
    assert torch.allclose(model(x, Point(robustness=0.3)), 0.7 * clean + 0.3 * robust, atol=1e-5)
    rows = torch.tensor([0.0, 0.3, 1.0])
    assert torch.allclose(model(x, Point(robustness=rows)), torch.lerp(clean, robust, rows[:, None]), atol=1e-5)
