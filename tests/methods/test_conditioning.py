"""Dual norms, FiLM, the dial's map: the mathematics of METHODS.md §1 and "Between the ends"."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from rheostat import nets
from rheostat.methods import Dedicated, Dual, Film, Slim
from rheostat.methods.base import Method, Stack, Term
from rheostat.methods.composition import compose, parse_method
from rheostat.methods.dual import Pair
from rheostat.models.tunable import Tunable
from rheostat.nn.affine import row_norm
from rheostat.nn.layers import seats
from rheostat.nn.norms import Norm, NormSet
from rheostat.points.dial_map import DialMap
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from support import images_for, make


def test_the_plain_norm_seat_is_batch_norm() -> None:
    torch.manual_seed(0)
    seat, reference = Norm(5), nn.BatchNorm2d(5)
    with torch.no_grad():
        seat.source.weight.copy_(torch.rand(5))
        reference.weight.copy_(seat.source.weight)
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("pgd-at"))
    x = torch.randn(8, 5, 6, 6)
    for _ in range(3):
        at = model.resolve(None, x, phase=Phase.TRAIN)
        assert torch.allclose(seat(x, at), reference(x), atol=1e-5)
        x = x * 1.3 + 0.2
    reference.eval()
    at = model.resolve(None, x)
    assert torch.allclose(seat(x, at), reference(x), atol=1e-5)
    assert torch.allclose(seat.source.running_var, reference.running_var, atol=1e-6)


def test_lambda_zero_of_a_dual_net_is_the_single_norm_net_bit_for_bit() -> None:
    for net in ("resnet-8", "wide_resnet", "mobilenet_v2"):
        dual, single = make("dual", net), make("pgd-at", net)
        single.load_state_dict(
            {k.replace("source.clean.", "source."): v for k, v in dual.state_dict().items() if "adversarial" not in k}
        )
        x = images_for(dual)
        for rule in ("at-0", "at-0.5", "blend"):
            assert torch.equal(dual.between(rule)(x, Point(robustness=0.0)), single(x))
        mixed = dual(x, Point(robustness=torch.tensor([0.0, 1, 0.5, 0, 1, 0.2])))
        assert torch.allclose(mixed[0], single(x)[0], atol=1e-6)


def test_between_rules() -> None:
    model = make("dual", "resnet-8")
    x = images_for(model)
    clean, robust = model(x, Point(robustness=0.0)), model(x, Point(robustness=1.0))
    at0, half = model.between("at-0"), model.between("at-0.5")
    assert torch.equal(at0(x, Point(robustness=0.01)), robust)
    assert torch.equal(half(x, Point(robustness=0.49)), clean)
    assert torch.equal(half(x, Point(robustness=0.5)), robust)
    blended = model.between("blend")(x, Point(robustness=0.5))
    assert not torch.allclose(blended, clean, atol=1e-3)
    assert not torch.allclose(blended, robust, atol=1e-3)


def test_training_updates_only_the_set_of_its_group() -> None:
    model = make("dual", "resnet-8")
    x = images_for(model)
    pair = next(m for m in model.modules() if isinstance(m, Pair))
    clean, robust = pair.clean.running_mean.clone(), pair.adversarial.running_mean.clone()
    model.read(x, model.resolve(Point(robustness=0.3), x, phase=Phase.TRAIN))
    assert torch.equal(pair.clean.running_mean, clean)
    assert not torch.equal(pair.adversarial.running_mean, robust)
    with pytest.raises(ValueError, match="mixes rows"):
        model.resolve(Point(robustness=torch.tensor([0.0, 1.0])), x[:2], phase=Phase.TRAIN)


def test_the_training_attack_switches_whatever_the_dial_does_between() -> None:
    model = make("dual", "resnet-8")
    y = torch.zeros(6, dtype=torch.long)
    x = images_for(model)
    loss = model.objective(y, Point(robustness=0.2), phase=Phase.ATTACK)(x)
    full = model.objective(y, Point(robustness=1.0), phase=Phase.EVAL)(x)
    assert torch.allclose(loss, full, atol=1e-5)


def test_row_norm_gradients_are_those_of_the_two_steps() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 4, dtype=torch.double, requires_grad=True)
    scale = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    shift = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    zero, one = torch.zeros(3, dtype=torch.double), torch.ones(3, dtype=torch.double)

    def ours(x, scale, shift):
        return row_norm(x, scale, shift, zero.clone(), one.clone(), 0.1, 1e-5)

    def plain(x, scale, shift):
        normal = nn.functional.batch_norm(x, None, None, training=True, eps=1e-5)
        return normal * scale[:, :, None, None] + shift[:, :, None, None]

    assert torch.allclose(ours(x, scale, shift), plain(x, scale, shift))
    weight = torch.randn(5, 3, 4, 4, dtype=torch.double)
    a = torch.autograd.grad((ours(x, scale, shift) * weight).sum(), (x, scale, shift))
    b = torch.autograd.grad((plain(x, scale, shift) * weight).sum(), (x, scale, shift))
    for left, right in zip(a, b, strict=True):
        assert torch.allclose(left, right, atol=1e-10)
    assert torch.autograd.gradcheck(ours, (x, scale, shift))


def test_film_starts_as_the_plain_network() -> None:
    torch.manual_seed(3)
    net = nets.resnet(depth=8, base_width=4)
    torch.manual_seed(3)
    plain = Tunable(nets.resnet(depth=8, base_width=4), compose("pgd-at"))
    x = torch.rand(4, 3, 32, 32)
    model = Tunable(net, compose("oat"))
    for level in (0.0, 0.1, 0.7, 1.0):
        assert torch.equal(model(x, Point(robustness=level)), plain(x))
    paper = Tunable(nets.resnet(depth=8, base_width=4), compose("oat", initialisation="paper"))
    generator = next(iter(seats(paper.net, Norm))).modulations[0]
    gamma = nn.functional.leaky_relu(generator.out(nn.functional.leaky_relu(generator.hidden(torch.ones(1, 2)))))
    assert gamma.mean() < 0.5  # the paper's starts near 0, not near 1


def test_film_sits_where_the_paper_puts_it() -> None:
    for net, expected in (
        (nets.resnet(depth=20, base_width=4), 1 + 18),  # stem, BN1 and BN2 of nine blocks
        (nets.wide_resnet(depth=16, widen=1, base_width=4), 12),  # BN1, BN2 of six blocks
    ):
        model = Tunable(net, compose("oat"))
        assert sum(len(n.modulations) for n in seats(model.net, Norm)) == expected


def test_orthogonal_codes_know_trained_lambda_only() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("oat", encoding="orthogonal", dim=16))
    codes = model.net.film_codes.rows
    assert torch.allclose(codes @ codes.T, torch.eye(16), atol=1e-5)
    x = torch.rand(2, 3, 32, 32)
    model(x, Point(robustness=0.4))
    with pytest.raises(ValueError, match=r"given 0\.05.*0, 0\.1, 0\.2"):
        model(x, Point(robustness=0.05))


def test_oat_plan_is_the_papers() -> None:
    method = compose("oat")
    counts = torch.zeros(3)
    for seed in range(20):
        clean, mixed, robust = method.plan(128, torch.Generator().manual_seed(seed))
        assert len(clean.rows) == 22  # ceil(128 / 6), every batch
        assert float(clean.at["robustness"]) == 0
        level = robust.at["robustness"]
        assert set(level.tolist()) <= set(torch.tensor([0.1, 0.2, 0.3, 0.4, 1.0]).tolist())
        assert torch.equal(mixed.at["robustness"], level[level < 1])
        assert torch.equal(mixed.weight, 1 - level[level < 1])
        assert torch.equal(robust.weight, level)
        assert torch.equal(torch.cat([clean.rows, robust.rows]).sort().values, torch.arange(128))
        # Σ weights / B is 1: it is a mean over rows.
        total = len(clean.rows) + float(mixed.weight.sum()) + float(robust.weight.sum())
        assert total == pytest.approx(128, abs=1e-4)
        counts += torch.tensor([len(clean.rows), len(mixed.rows), len(robust.rows)])
    assert counts[1] / counts[2] == pytest.approx(0.8, abs=0.05)


def test_dual_and_dedicated_plans() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, robust = compose("dual").plan(9, generator)
    assert (len(clean.rows), len(robust.rows)) == (5, 4)
    assert clean.images == "clean"
    assert robust.images == "adversarial"
    for level, kinds in ((0.0, ["clean"]), (0.3, ["clean", "adversarial"]), (1.0, ["adversarial"])):
        terms = compose("pgd-at", robustness=level).plan(4, generator)
        assert [t.images for t in terms] == kinds
        assert sum(t.weight for t in terms) == 1


def test_stacks_combine_in_every_order_and_refuse_by_name() -> None:
    assert Stack(Film(), Dual()) == Stack(Dual(), Film())
    torch.manual_seed(0)
    a = Tunable(nets.resnet(depth=8, base_width=4), Stack(Film(), Dual()))
    torch.manual_seed(0)
    b = Tunable(nets.resnet(depth=8, base_width=4), Stack(Dual(), Film()))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(ValueError, match="reads the dial 'robustness'"):
        Stack(Film())
    with pytest.raises(ValueError, match="claim the norm bank"):
        Stack(Dual(), Dedicated())
    with pytest.raises(ValueError, match="both claim"):
        Stack(Dual(), Film(), Film(dim=8))
    for method in (Dual(), Stack(Dual(), Film())):
        with pytest.raises(ValueError, match="norms; this one has none"):
            Tunable(nets.small_cnn(padded=False), method)


@dataclass(frozen=True)
class Quarters(Method):
    """A stranger's plan: a quarter of the rows, clean."""

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: nets.Net) -> None:
        return

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        return [Term(torch.arange(batch // 4))]


@dataclass(frozen=True)
class Halves(Quarters):
    """Another."""


def test_a_plan_has_one_owner() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=r"(film and quarters|quarters and film) both define the terms"):
        Stack(Dual(), Film(), Quarters())
    with pytest.raises(ValueError, match="halves and quarters both define the terms"):
        Stack(Quarters(), Halves())
    with pytest.raises(ValueError, match="both define"):
        Stack(Dedicated(), Quarters())
    # Dual's halves are a default: the owner's plan takes their place, and what multiplies terms comes after.
    assert [len(t.rows) for t in Stack(Dual(), Quarters()).plan(8, generator)] == [2]
    assert [len(t.rows) for t in Stack(Dual(), Quarters(), Slim()).plan(8, generator)] == [2, 2, 2]
    assert [len(t.rows) for t in Stack(Dual(), Slim()).plan(8, generator)] == [4, 4] * 3
    assert [len(t.rows) for t in Stack(Slim(widths=(1.0,))).plan(8, generator)] == [8]


@pytest.mark.parametrize(
    ("attacked", "batch", "expected"),
    [
        (0.5, 8, [1, 3, 5, 7]),
        (0.5, 7, [1, 3, 5]),
        (0.75, 8, [1, 2, 3, 5, 6, 7]),
        (0.65, 20, [1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19]),
        (0.1, 8, [7]),
        (0.9, 2, [1]),
        (0.5, 1, []),
        (0.9, 10, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_the_attacked_fraction_of_a_batch(attacked: float, batch: int, expected: list[int]) -> None:
    terms = Dual(attacked=attacked).plan(batch, torch.Generator())
    rows = {term.images: term.rows.tolist() for term in terms}
    assert rows.get("adversarial", []) == expected
    assert sorted(rows["clean"] + expected) == list(range(batch))
    assert [float(t.at["robustness"]) for t in terms] == [0.0, 1.0][: len(terms)]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Stack(Dual(), Film(dim=__import__('os')))",
        "Stack(Dull())",
        "Dual(sets=2, betwen='blend')",
        "Stack(Dual(",
        "3",
    ],
)
def test_a_composition_is_never_evaluated(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|no method|no option"):
        parse_method(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": "blnd"}, "did you mean 'blend'"),
        ({"encoding": "cosin"}, "did you mean 'cosine'"),
        ({"dims": 4}, "did you mean 'dim'"),
        ({"encoding": "orthogonal", "dim": 5}, "too small"),
        ({"sets": 3}, "1 or 2"),
        ({"attacked": 1.0}, "below 1"),
        ({"attacked": 0.7}, "attacked=0.7 has no effect.*film defines the terms"),
    ],
)
def test_impossible_options_name_the_nearest(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose("oat", **options)


def test_the_dial_map_runs_through_its_knots_and_applies_in_eval_only() -> None:
    fitted = DialMap((0.0, 0.25, 1.0), (0.0, 0.1, 1.0), (0.0, 1.0, 1.0))
    level, blend = fitted(torch.tensor([0.0, 0.125, 0.25, 0.625, 1.0]))
    assert torch.allclose(level, torch.tensor([0.0, 0.05, 0.1, 0.55, 1.0]))
    assert torch.allclose(blend, torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0]))
    model = make("oat", "resnet-8")
    x = images_for(model)
    before = model.between("at-0")(x, Point(robustness=0.1))
    train = model.resolve(Point(robustness=0.25), x, phase=Phase.TRAIN).robustness.table
    model.dial_map = fitted
    assert torch.allclose(model(x, Point(robustness=0.25)), before, atol=1e-5)
    assert torch.equal(model.resolve(Point(robustness=0.25), x, phase=Phase.TRAIN).robustness.table, train)
    for bad in (((0, 1), (0, 1), (1, 0)), ((0, 0.5), (0, 1), (0, 1)), ((0, 0, 1), (0, 0, 1), (0, 0, 1))):
        with pytest.raises(ValueError, match="dial map"):
            DialMap(*bad)


def test_points_check_their_dials() -> None:
    model = make("oat", "resnet-8")
    x = images_for(model)
    with pytest.raises(ValueError, match=r"from 0 to 1, given 1\.5"):
        model(x, Point(robustness=1.5))
    with pytest.raises(ValueError, match=r"given -0\.5"):
        model(x, Point(robustness=torch.tensor([0, 0, -0.5, 0, 0, 0])))
    with pytest.raises(ValueError, match="2 values for 6 examples"):
        model(x, Point(robustness=torch.tensor([0.0, 1.0])))
    with pytest.raises(ValueError, match="no point named 'saef'"):
        model.at("saef")
    with pytest.raises(AttributeError, match="immutable"):
        Point(robustness=1).robustness = 2
    assert NormSet(3).copy().weight.requires_grad


@pytest.mark.parametrize("second", ["dual", "oat", "rdi"])
def test_a_network_is_conditioned_once(second: str) -> None:
    net = nets.resnet(depth=8, base_width=4)
    model = Tunable(net, compose("rdi", positions=(1,)))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"already conditioned by Stack\(Exits\(positions=\(1,\).*build a new one"):
        Tunable(net, compose(second))
    assert state.keys() == model.state_dict().keys()
