"""Attacks made for exits, policies, and exits combined with other methods."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rheostat import data, nets
from rheostat.attacks import Attack, named
from rheostat.attacks import multi_exit as forms
from rheostat.calibration.exit_policy import fit_policy, stacked
from rheostat.evaluation.attacked import attack_chunk, victim_at
from rheostat.methods import Dedicated, Dual, Exits, Experts, Film, Slim
from rheostat.methods.base import Stack
from rheostat.methods.composition import compose
from rheostat.methods.exits import ExitCommand
from rheostat.models.costs import exit_costs, observe
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from support import images_for, make

LIVE = Point(exit=1.0)


def varied(net: str = "resnet-8", paper: str = "rdi", count: int = 64) -> tuple[Tunable, data.Dataset]:
    """A model with moved weights, its thresholds fitted by equal shares, and the images they fit."""
    model = make(paper, net)
    images = torch.randint(0, 256, (count, *model.net.image), dtype=torch.uint8)
    fit = data.Dataset("made", images, torch.arange(count) % 10, tuple("0123456789"), "calibrate-fit")
    fit_policy(model, fit)
    return model, fit


def test_max_average_is_never_below_its_candidates() -> None:
    model, fit = varied()
    x, y = data.to_pixels(fit.images), fit.labels
    attack = Attack("pgd", 0.05, 5)
    score = model.objective(y, LIVE, form="average")
    found = model.objective(y, LIVE, form="max-average")
    assert isinstance(found, forms.Candidates)
    generator = torch.Generator().manual_seed(3)
    each = [attack(o, x, generator) for o in found.objectives]
    best = attack(found, x, torch.Generator().manual_seed(3))
    with torch.no_grad():
        scores = torch.stack([score(images) for images in each])
        assert torch.allclose(score(best), scores.amax(0), atol=1e-5)
    assert len({int(v) for v in scores.argmax(0)}) > 1
    starts = [attack(replace(o), x, torch.Generator().manual_seed(i)) for i, o in enumerate(found.objectives)]
    assert not torch.equal(starts[0], starts[1])


def test_max_average_runs_prefixes_alone() -> None:
    model = Tunable(nets.resnet(depth=38), compose("rdi", heads="paper"))
    x, y = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])

    def passed(objective: object) -> int:
        # Forward alone: a backward pass for images costs as much again, prefix by prefix.
        with FlopCounterMode(display=False) as counter:
            objective(x)
        return int(counter.get_total_flops())

    found = model.objective(y, form="max-average")
    assert isinstance(found, forms.Candidates)
    prefixes = sum(passed(o) for o in found.objectives)
    whole = passed(model.objective(y, form="average"))
    share = prefixes / (len(found.objectives) * whole)
    assert share <= 0.55
    # Scoring, apart: one forward pass of all exits per candidate.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        found.score(x)
    assert counter.get_total_flops() == whole


def test_attacks_on_exits_do_what_they_say() -> None:
    model, fit = varied(count=200)
    x, y = data.to_pixels(fit.images), fit.labels
    attack = Attack("pgd", 0.05, 10)

    def attacked(form: str) -> torch.Tensor:
        objective = model.objective(y, LIVE, form=form)
        return attack(objective, x, torch.Generator().manual_seed(0))

    def losses(images: torch.Tensor) -> torch.Tensor:
        stack = stacked(model, fit, Point())
        at = model.resolve(Point(), images).with_(ExitCommand())
        with torch.no_grad():
            stack = torch.stack(model.read(images, at).exits, 1)
        return torch.stack([torch.nn.functional.cross_entropy(stack[:, k], y) for k in range(stack.shape[1])])

    clean = losses(x)
    for k in range(len(clean)):
        assert losses(attacked(f"exit-{k + 1}"))[k] > clean[k] + 0.01
    assert losses(attacked("average")).mean() > clean.mean() + 0.01
    slow = model.read(attacked("slowdown"), model.resolve(LIVE, x)).taken
    before = model.read(x, model.resolve(LIVE, x)).taken
    assert slow.double().mean() > before.double().mean()
    right = (model(x, LIVE).argmax(1) == y).double().mean()
    under = (model(attacked("routed"), LIVE).argmax(1) == y).double().mean()
    assert under <= right


def test_a_stacked_decision_is_the_policys() -> None:
    model, fit = varied()
    x, y = data.to_pixels(fit.images), fit.labels
    objective = model.objective(y, LIVE, form="routed")
    with torch.no_grad():
        _, fallen = objective.judge(x)
    assert torch.equal(fallen, model(x, LIVE).argmax(1) != y)
    single = model.objective(y, LIVE, form="exit-1")
    assert not single.decisive
    assert model.objective(y, Point(depth=1.0), form="exit-1").decisive


def test_equal_shares_and_the_other_rules() -> None:
    model, fit = varied("resnet-18", count=210)
    count = len(model.net.exits) + 1
    found = fit_policy(model, fit)
    assert all(share == pytest.approx(1 / count, abs=0.02) for share in found.shares)
    costs = exit_costs(model).macs
    budget = fit_policy(model, fit, rule="budget", macs=0.6 * costs[-1])
    assert budget.macs <= 0.6 * costs[-1]
    floor = fit_policy(model, fit, rule="accuracy", accuracy=budget.accuracy)
    assert floor.accuracy >= budget.accuracy
    assert floor.macs <= budget.macs + 1e-6
    exits = model.read(x := data.to_pixels(fit.images), model.resolve(LIVE, x)).taken
    hits = (model(x, LIVE).argmax(1) == fit.labels).double().mean()
    assert float(hits) == pytest.approx(floor.accuracy)
    assert torch.tensor(costs, dtype=torch.float64)[exits].mean() == pytest.approx(floor.macs)
    with pytest.raises(ValueError, match="the cheapest needs"):
        fit_policy(model, fit, rule="budget", macs=1.0)
    with pytest.raises(ValueError, match="the best reaches"):
        fit_policy(model, fit, rule="accuracy", accuracy=0.999)
    with pytest.raises(ValueError, match="needs macs"):
        fit_policy(model, fit, rule="budget")
    for given, message in (
        ({"macs": 1e6}, "rule 'equal-shares' does not use macs, given 1e.06; leave it out, or use rule 'budget'"),
        ({"rule": "budget", "macs": costs[-1], "accuracy": 0.9}, "rule 'budget' does not use accuracy, given 0.9"),
        ({"rule": "accuracy", "macs": 1e6, "accuracy": 0.1}, "rule 'accuracy' does not use macs"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_policy(model, fit, **given)
    with pytest.raises(ValueError, match="did you mean 'budget'"):
        fit_policy(model, fit, rule="buget")


def test_a_fit_within_a_depth_leaves_the_other_thresholds() -> None:
    model, fit = varied("resnet-18")
    before = model.net.get_buffer("thresholds").clone()
    found = fit_policy(model, fit, rule="budget", macs=exit_costs(model).macs[1], at=Point(depth=3.0))
    after = model.net.get_buffer("thresholds")
    assert len(found.thresholds) == 2
    assert torch.equal(after[:2], torch.tensor(found.thresholds))
    assert torch.equal(after[2:], before[2:])
    # A model fitted within a depth alone runs there, and asks for a fit beyond it.
    model.net.thresholds.fill_(float("nan"))
    fit_policy(model, fit, at=Point(depth=3.0))
    x = data.to_pixels(fit.images)
    taken = model.read(x, model.resolve(Point(exit=1.0, depth=3.0), x)).taken
    assert taken.unique().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="not fitted yet"):
        model(x, LIVE)


def test_experts_and_live_exits_meet_at_the_ends_alone() -> None:
    torch.manual_seed(0)
    spec = {"name": "resnet", "depth": 8, "base_width": 4, "image": (3, 8, 8)}
    model = Tunable(nets.build(spec), Stack(Dual(), Exits(), Experts()))
    model.net.thresholds.fill_(float(torch.tensor(10.0).log()))
    x = torch.rand(4, 3, 8, 8)
    ends = torch.tensor([0.0, 1.0, 1.0, 0.0])
    for level in (0.3, torch.tensor([0.0, 0.3, 1.0, 1.0])):
        with pytest.raises(ValueError, match=r"at robustness 0\.3 two paths are mixed"):
            model(x, Point(robustness=level, exit=1.0))
    found = model.read(x, model.resolve(Point(robustness=ends, exit=1.0), x))
    for row, level in enumerate(ends.tolist()):
        one = x[row : row + 1]
        alone = model.read(one, model.resolve(Point(robustness=level, exit=1.0), one))
        assert torch.allclose(found.logits[row], alone.logits[0], atol=1e-5)
        assert found.taken[row] == alone.taken[0]


def test_nothing_is_fitted_on_test(digits) -> None:
    model = Tunable(nets.small_cnn(image=(1, 8, 8)), compose("rdi"))
    with pytest.raises(ValueError, match="nothing may be fitted or chosen on test"):
        fit_policy(model, digits[1])
    with pytest.raises(ValueError, match="not fitted yet"):
        model(images_for(model), LIVE)


def test_a_chunk_says_which_exit_every_image_took() -> None:
    model, fit = varied(count=100)
    x, y = data.to_pixels(fit.images), fit.labels
    found = attack_chunk(victim_at(model, LIVE), x, y, named("pgd5@slowdown", eps=0.1), (0,))
    assert torch.equal(found.exits[0], model.read(x, model.resolve(LIVE, x)).taken)
    moved = model.read(found.adversarial, model.resolve(LIVE, x)).taken
    assert torch.equal(found.exits[1], moved)
    assert attack_chunk(victim_at(model, Point()), x, y, named("fgsm", eps=0.1), (0,)).exits is None


def test_the_clean_plan_of_another_method_stays_clean() -> None:
    net = nets.resnet(depth=8, base_width=4, image=(1, 8, 8))
    standard = Tunable(net, Stack(Exits(), Dedicated(robustness=0.0)))
    assert [(t.images, t.weight) for t in standard.method.plan(8, torch.Generator())] == [("clean", 1.0)]


def test_plans_of_defences() -> None:
    net = nets.resnet(depth=20, image=(3, 8, 8))
    for defence, form in (("main", "exit-6"), ("average", "average"), ("routed", "routed")):
        model = Tunable(nets.build(net.spec), compose("rdi", defence=defence))
        terms = model.method.plan(8, torch.Generator())
        assert [(t.images, t.weight) for t in terms] == [("clean", 0.5), ("adversarial", 0.5)]
        assert terms[1].objective == form
    none = Tunable(nets.build(net.spec), compose("rdi", defence="none"))
    assert [t.images for t in none.method.plan(8, torch.Generator())] == ["clean"]
    mixed = Tunable(nets.build(net.spec), compose("rdi-slim-dual"))
    terms = mixed.method.plan(8, torch.Generator())
    assert len(terms) == 6
    assert {t.objective for t in terms if t.images == "adversarial"} == {"average"}


def test_three_dials_at_once() -> None:
    torch.manual_seed(0)
    net = nets.resnet(depth=14, base_width=8, image=(1, 12, 12))
    model = Tunable(net, compose("rdi-slim-dual"))
    model.net.thresholds.fill_(1.5)
    costs = {
        (w, d): observe(model, net.image, Point(width=w, depth=d)).macs
        for w in (0.5, 0.75, 1.0)
        for d in model.dials["depth"].values
    }
    for w in (0.5, 0.75, 1.0):
        along = [costs[w, d] for d in model.dials["depth"].values]
        assert along == sorted(along)
    for d in model.dials["depth"].values:
        along = [costs[w, d] for w in (0.5, 0.75, 1.0)]
        assert along == sorted(along)
    x = torch.rand(5, 1, 12, 12)
    point = Point(width=0.5, exit=1.0, robustness=torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0]))
    mixed = model(x, point)
    for row, level in enumerate((0.0, 1.0, 0.5, 0.0, 1.0)):
        alone = model(x[row : row + 1], Point(width=0.5, exit=1.0, robustness=level))[0]
        assert torch.allclose(mixed[row], alone, atol=1e-4)


def test_exits_combine_in_every_order_and_are_refused_by_name() -> None:
    spec = {"name": "resnet", "depth": 8, "base_width": 4, "image": (3, 8, 8)}
    parts = [Exits(), Dual(), Film(), Slim()]
    first, second = (Tunable(nets.build(spec), Stack(*o)) for o in (parts, parts[::-1]))
    assert list(first.state_dict()) == list(second.state_dict())
    with pytest.raises(ValueError, match="no block 9 before the last"):
        Tunable(nets.build(spec), compose("rdi", positions=(9,)))
    with pytest.raises(ValueError, match="did you mean 'average'"):
        compose("rdi", defence="averge")
    model = Tunable(nets.build(spec), compose("rdi"))
    with pytest.raises(ValueError, match="did you mean 'max-average'"):
        model.objective(torch.tensor([0]), form="max-avrage")
