"""What made an evaluation flatter a model, or break off: each was found on a real model, and is tried here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rheostat
from rheostat import EvaluationOptions, Point
from rheostat.attacks import named
from rheostat.data import Dataset, subset
from rheostat.data.conversion import Form
from rheostat.evaluation.arguments import as_attacks, by_tier, grouped
from rheostat.evaluation.attacked import outcome
from rheostat.evaluation.chunks import Task, measured
from rheostat.evaluation.lookup import Request, find_target, measure
from rheostat.evaluation.target import Target
from rheostat.models import save
from rheostat.models.artifact import About, locate
from rheostat.models.costs import exit_costs, observe
from rheostat.training.checkpoint import Progress
from rheostat.training.result import Fitted
from rheostat.training.settings import Settings
from support import make

EPS = 0.2


class Detached(nn.Module):
    """A network that cuts its graph, so that no gradient comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.model = rheostat.load("oat-digits").at(robustness=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).detach()


class Tied(nn.Module):
    """Every logit is the same: a constant predictor, and a margin of exactly 0. It cannot take a batch of no images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 10) + 0 * x.view(len(x), -1).sum(1, keepdim=True)


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 60)


@pytest.mark.parametrize("attack", ["pgd5", "apgd-ce", "apgd-t", "square50", "square50-rescaled", "mi-fgsm"])
def test_a_module_that_cuts_its_graph_is_measured_and_flagged(attack: str, sample) -> None:
    rows = rheostat.evaluate(Detached(), None, [named(attack, eps=EPS)], sample)
    assert "zero-gradients" in rows[-1].flags
    assert rows[-1].clean_accuracy > 0.8


@pytest.mark.parametrize("attack", ["pgd5", "apgd-ce", "apgd-t", "square50", "square50-rescaled", "mi-fgsm"])
def test_a_constant_predictor_is_measured_and_flagged(attack: str, sample) -> None:
    rows = rheostat.evaluate(Tied(), None, [named(attack, eps=EPS)], sample)
    assert "constant-predictor" in rows[-1].flags


@pytest.mark.slow
@pytest.mark.parametrize("faulty", [Detached, Tied])
def test_autoattack_does_not_break_off_on_them(faulty, sample) -> None:
    rows = rheostat.evaluate(faulty(), None, [named("autoattack", eps=EPS)], subset(sample, 20))
    assert set(rows[-1].flags) & {"zero-gradients", "constant-predictor"}


def test_a_sound_model_is_no_constant_predictor_and_is_not_written_to(sample) -> None:
    model = rheostat.load("oat-digits")
    versions = [p._version for p in (*model.parameters(), *model.buffers())]
    rows = rheostat.evaluate(model, "robustness=1", [named("fgsm", eps=EPS)], sample)
    assert "constant-predictor" not in rows[-1].flags
    assert [p._version for p in (*model.parameters(), *model.buffers())] == versions


def multi_exit():
    """An untrained multi-exit network, its thresholds where about half of the rows leave early; and images."""
    model = make("rdi", "resnet-8").eval()
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (40,), generator=generator)
    rheostat.fit_policy(model, Dataset("noise", images, labels, tuple("0123456789"), "calibrate-fit"))
    return model, Dataset("noise", images, labels, tuple("0123456789"), "test")


def test_an_attack_on_cost_is_made_on_every_image() -> None:
    model, data = multi_exit()
    attacks = tuple(named(n, eps=EPS) for n in ("pgd5", "pgd5@slowdown"))
    record = measured(Task(model, (model.complete(Point(exit=1.0)),), attacks), data.images / 255, data.labels, 0)
    standing = record["standing"][0, 0]
    assert not standing.all()
    assert (record["exits"][0, 1, 1] >= 0).all()  # the second attack skipped those that the first had fooled
    assert not (record["standing"][0, 1] & ~standing).any()
    before, after = record["exits"][0, 1][:, ~record["clean"][0]]
    assert (after > before).any()  # images that are wrong before any attack are made to cost more too
    rows = rheostat.evaluate(model, [Point(exit=1.0)], attacks, data)
    costs = torch.tensor(exit_costs(model, Point(exit=1.0)).macs, dtype=torch.float64)
    by_attack = [float(costs[record["exits"][0, a, 1]].mean()) for a in (0, 1)]
    assert rows[1].macs_attacked.mean == pytest.approx(by_attack[1])
    assert rows[-1].macs_attacked.mean == pytest.approx(max(by_attack))


def test_a_tier_attacks_every_form_where_exits_are_live(tmp_path, monkeypatch) -> None:
    model, data = multi_exit()
    save(tmp_path / "m.safetensors", model)
    monkeypatch.setattr("rheostat.evaluation.lookup.find_data", lambda *_, **__: data)
    request = Request(str(tmp_path / "m.safetensors"), at="exit=0,1", eps=str(EPS))
    rows = measure(request, EvaluationOptions(out=tmp_path / "rows.jsonl"))
    names = {r.at["exit"]: list(r.attack.names) for r in rows if r.attack.name == "worst"}
    assert names[0.0] == ["pgd20"]
    forms = [n.partition("@")[2] for n in names[1.0]]
    assert set(forms) >= {"", "average", "max-average", "routed", "slowdown"}


@pytest.mark.parametrize("tier", ["quick", "standard", "full", "theirs"])
def test_no_tier_leaves_a_form_out(tier: str, monkeypatch) -> None:
    if tier == "theirs":  # a tier of another package, of an attack that mixes rows
        monkeypatch.setattr("rheostat.evaluation.arguments.attacks_of", lambda *_: ["apgd-ce"])
    model, _ = multi_exit()
    target = Target(model, "x")
    points = [model.complete(Point(exit=e)) for e in (0.0, 1.0)]
    (at_rest, plain), (live, attacked) = by_tier(target, points, tier, 10)
    assert ([p["exit"] for p in at_rest], [p["exit"] for p in live]) == ([0.0], [1.0])
    names = [a.name for a in as_attacks(target, attacked, EvaluationOptions(eps=EPS))]
    assert set(names) >= {*plain, *(f"pgd20@{form}" for form in model.method.forms(model.net))}
    assert not [n for n in plain if "@" in n]


def test_tiers_attack_mixednuts_in_every_form() -> None:
    """Its sharp parts give little gradient: attacked by its logits alone, it looks more robust than it is."""
    for paper, forms in (("mixednuts", {"standard", "robust", "bypassed"}), ("mixing", set())):
        model = make(paper, "small_cnn")
        points = [model.complete(Point(robustness=t)) for t in (0.0, 0.5, 1.0)]
        ((measured_at, names),) = by_tier(Target(model, "x"), points, "quick", 10)
        assert measured_at == points
        made = [a.name for a in as_attacks(Target(model, "x"), names, EvaluationOptions(eps=EPS))]
        assert set(made) == {"pgd20", *(f"pgd20@{form}" for form in forms)}


def test_a_finished_run_attacks_live_exits_in_every_form(tmp_path) -> None:
    model, data = multi_exit()
    about = About(classes=data.classes, threat={"norm": "linf", "eps": EPS})
    form = Form(data.image, data.classes)
    run = Fitted(model, Settings.model_construct(name="exits"), Progress(), tmp_path, about, form)
    names = {r.at["exit"]: set(r.attack.names) for r in run.evaluate(data, "exit=0,1") if r.attack.name == "worst"}
    assert names[0.0] == {"pgd20"}
    assert names[1.0] >= {"pgd20", "pgd20@average", "pgd20@max-average", "pgd20@slowdown"}


def test_the_hub_is_no_factory(monkeypatch) -> None:
    monkeypatch.setattr("rheostat.models.hub.fetch", lambda which: locate("oat-digits"))
    assert find_target("hf:lab/digits", name=None, between=None).about.classes == tuple("0123456789")


def test_an_evaluation_is_in_full_precision_whatever_its_caller_set(sample) -> None:
    seen = set()

    class Noting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fast = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
            seen.add((torch.is_autocast_enabled("cpu"), *fast))
            return x.flatten(1)[:, 10:20]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            attacks = [named(n, eps=EPS) for n in ("pgd5", "apgd-ce")]
            rheostat.evaluate(Noting(), None, attacks, sample, options=EvaluationOptions(probing=True))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {(False, False, False)}


def test_points_that_exchange_images_are_measured_together(tmp_path) -> None:
    """Measured apart, the points with live exits and those without had a `chosen` row for each part."""
    model, data = multi_exit()
    few = data.only(torch.arange(12))
    about = About(classes=data.classes, threat={"norm": "linf", "eps": EPS})
    run = Fitted(
        model, Settings.model_construct(name="exits"), Progress(), tmp_path, about, Form(data.image, data.classes)
    )
    rows = run.evaluate(few, "exit=0,1", options=EvaluationOptions(transfer=True))
    (chosen,) = [r for r in rows if r.knowledge == "chosen"]
    assert [at["exit"] for at in chosen.attack.of] == [0.0, 1.0]
    assert len([r for r in rows if r.knowledge == "transfer"]) == 4
    worst = [r for r in rows if r.attack.name == "worst"]
    assert worst[0].attack.names == worst[1].attack.names
    assert chosen.robust_accuracy <= min(r.robust_accuracy for r in worst)
    target = Target(model, "x", about=about)
    for warm in (True, False):
        assert len(grouped(target, "exit=0,1", None, EvaluationOptions(warm=warm), classes=10)) == 2 - warm
    plain = Target(make("oat", "small_cnn"), "x", about=about)  # one group stays as it is
    together, apart = (
        grouped(plain, "robustness=0,1", None, EvaluationOptions(transfer=transfer), classes=10)
        for transfer in (True, False)
    )
    assert together == apart


def test_a_point_as_a_module_is_the_model_at_that_point() -> None:
    model, data = multi_exit()
    few, options = data.only(torch.arange(12)), EvaluationOptions(eps=EPS)
    at = model.at(exit=1.0)
    same = rheostat.evaluate(model, "exit=1", "pgd2@all", few, options=options)
    rows = rheostat.evaluate(at, None, "pgd2@all", few, options=options)
    assert [r.model_copy(update={"seconds": 0}) for r in rows] == [r.model_copy(update={"seconds": 0}) for r in same]
    assert rows[0].macs.mean < exit_costs(model, at.point).macs[-1] == observe(at, data.image).macs
    with pytest.raises(ValueError, match="has no dials; omit --at"):
        rheostat.evaluate(at, "exit=0", "fgsm", few, options=options)


def test_a_form_that_a_module_does_not_have_is_refused_before_any_work(sample) -> None:
    options = EvaluationOptions(eps=EPS)
    for module in (Tied(), rheostat.load("oat-digits")):
        with pytest.raises(ValueError, match="has no exits and therefore no forms of attack; omit @average"):
            rheostat.evaluate(module, None, "pgd2@average", sample, options=options)
    model, data = multi_exit()
    with pytest.raises(ValueError, match=r"pgd2@averag: no form of attack 'averag'; did you mean 'average'"):
        rheostat.evaluate(model, "exit=1", "pgd2@averag", data, options=options)
    with pytest.raises(ValueError, match="Tied has no forms of attack, given average"):
        outcome(Tied(), None, sample, named("pgd2@average", eps=EPS))
