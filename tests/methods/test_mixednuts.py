"""MixedNUTS: parity with the formulas, finite gradients, its forms of attack, its fit."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import Tensor

from rheostat import nets
from rheostat.attacks import Attack, named
from rheostat.attacks.objective import gradient
from rheostat.calibration import calibrate_dial, fittings
from rheostat.calibration.mixednuts import fit_nonlinearity, fitted_to, margins
from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.arguments import forms_of
from rheostat.evaluation.attacked import Outcome, outcome, worst_outcome
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.target import Target
from rheostat.methods import compose
from rheostat.methods.mixednuts import transformed
from rheostat.methods.mixing import twin_of
from rheostat.models import artifact
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.intervals import share
from rheostat.training.recipe import load_recipe
from rheostat.training.selection import Watch


def made(**options: object) -> Tunable:
    """Two untrained networks whose nonlinearity is not at rest."""
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("mixednuts", **options))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    found = model.net.nonlinearity
    found.scale.fill_(2.0)
    found.power.fill_(1.7)
    found.bias.fill_(-0.4)
    return model


def by_hand(g: list[float], h: list[float], alpha: float, temperature: float) -> list[float]:
    """log p of one image, written as the paper writes it, with s, p, c of `made`."""
    mean = sum(h) / len(h)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in h) / (len(h) - 1) + 1e-8)
    sharpened = []
    for value in h:
        v = (value - mean) / deviation - 0.4
        u = 0.5 * v * (1 + math.erf(v / math.sqrt(2)))
        sharpened.append(2.0 * abs(u) ** 1.7 * (1 if u > 0 else -1))

    def softmax(values: list[float]) -> list[float]:
        weights = [math.exp(v - max(values)) for v in values]
        return [w / sum(weights) for w in weights]

    mixed = zip(softmax([v / temperature for v in g]), softmax(sharpened), strict=True)
    return [math.log((1 - alpha) * a + alpha * b) for a, b in mixed]


def test_the_logits_are_the_formulas() -> None:
    model = made(temperature=0.5)
    x = torch.rand(5, 1, 8, 8)
    levels = torch.tensor([0.0, 0.05, 0.5, 0.9, 1.0])
    at = model.resolve(Point(), x)
    g, h = model.net(x, at).double(), twin_of(model.net)(x, at).double()
    found = model(x, Point(robustness=levels))
    for row, level in enumerate(levels.tolist()):
        alpha = 5 * level if level < 0.1 else 0.5 + (level - 0.1) / 1.8
        expected = torch.tensor(by_hand(g[row].tolist(), h[row].tolist(), alpha, 0.5))
        assert torch.allclose(found[row], expected, atol=1e-4)
        alone = model(x[row : row + 1], Point(robustness=level))[0]
        assert torch.allclose(found[row], alone, atol=1e-5)
    assert torch.allclose(found.exp().sum(1), torch.ones(5), atol=1e-5)
    costs = [model.method.passes(Point(robustness=v)) for v in (0.0, 0.5, 1.0)]
    assert costs == [1, 2, 1]


def test_below_one_half_a_sharp_standard_network_decides_alone() -> None:
    """Why the dial lives in [½, 1]: with T → 0 no confidence of the robust network outweighs 1-α there."""
    model = made(temperature=1e-4)
    x = torch.rand(64, 1, 8, 8)
    answers = [model(x, Point(robustness=v)).argmax(1) for v in (0.0, 0.0999, 0.9, 1.0)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[1], answers[2])


@pytest.mark.parametrize("logits", [torch.zeros(1, 10), 1e4 * torch.eye(10), torch.full((1, 10), -3.0)])
def test_gradients_are_finite_where_probabilities_vanish(logits: Tensor) -> None:
    leaf = logits.clone().requires_grad_(True)
    found = transformed(leaf, torch.tensor(5.0), torch.tensor(4.0), torch.tensor(-1.1))
    found.log_softmax(1).sum().backward()
    assert bool(leaf.grad.isfinite().all())
    model = made(temperature=0.001)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    for point in (Point(robustness=0.3), Point(robustness=torch.tensor([0.0, 0.3, 1.0, 0.6]))):
        for loss in ("ce", "margin", "dlr"):
            slope, value, _ = gradient(model.objective(y, point, loss=loss), x)
            assert bool(slope.isfinite().all())
            assert bool(value.isfinite().all())
            assert bool((slope.flatten(1).abs().amax(1) > 0).all())


def test_the_forms_attack_a_part_or_go_around_the_nonlinearity(digits, tmp_path) -> None:
    model = made()
    x, y = to_pixels(digits[1].images[:8]), digits[1].labels[:8]
    point = Point(robustness=0.64)  # α = 0.8
    at = model.resolve(point, x)
    g, h = model.net(x, at), twin_of(model.net)(x, at)
    seen = {form: model.objective(y, point, form=form).forward(x, None) for form in ("standard", "robust", "bypassed")}
    assert torch.allclose(seen["standard"], g.log_softmax(1), atol=1e-5)
    sharp = model.net.nonlinearity(h).softmax(1)
    raw = 0.9 * h.softmax(1) + 0.1 * sharp
    assert torch.allclose(seen["robust"], raw.log(), atol=1e-4)
    assert torch.allclose(seen["bypassed"], (0.2 * g.softmax(1) + 0.8 * raw).log(), atol=1e-4)
    assert not model.objective(y, point, form="bypassed").decisive
    names = forms_of(Target(model, "nuts"), "pgd3@all")
    assert names == ["pgd3", "pgd3@standard", "pgd3@robust", "pgd3@bypassed"]
    rows = evaluate(
        Target(model, "nuts"), [point], [named(n, eps=0.3) for n in names], digits[1].only(torch.arange(40))
    )
    *single, worst = rows
    assert worst.attack.name == "worst"
    assert worst.robust_accuracy <= min(r.robust_accuracy for r in single)
    logits = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("mixing"))
    assert forms_of(Target(logits, "mixing"), "pgd3@all") == ["pgd3", "pgd3@standard", "pgd3@robust"]


def test_calibration_and_selection_take_the_worst_form(monkeypatch) -> None:
    """Planted: two sharp networks, whose own answers are the labels; few images fall to an attack on the logits."""
    model = made(temperature=0.01)
    model.net.nonlinearity.scale.fill_(5.0)
    model.net.nonlinearity.power.fill_(4.0)
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    point, attack = Point(robustness=0.0), Attack("pgd", 0.1, 10)
    with torch.no_grad():
        labels = model(to_pixels(images), point).argmax(1)
    data = Dataset("own", images, labels, tuple(map(str, range(10))), "calibrate-fit")
    direct, worst = (share(found(model, point, data, attack).robust) for found in (outcome, worst_outcome))
    assert worst < direct - 0.3
    asked: list[tuple[str, int]] = []

    def noted(*given: object, **more: object) -> Outcome:
        asked.append((given[3].form, len(given[2])))
        return outcome(*given, **more)

    monkeypatch.setattr("rheostat.evaluation.attacked.outcome", noted)
    worst_outcome(model, point, data, named("apgd-ce", eps=0.1))
    forms, sizes = zip(*asked, strict=True)
    assert forms[:2] == ("direct", "standard")  # Auto-PGD takes no forms: PGD-20 does
    assert sizes[0] == 60 > sizes[1] >= sizes[-1]
    asked.clear()
    plain = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("mixing"))
    worst_outcome(plain, point, data, attack)
    assert [form for form, _ in asked] == ["direct"]
    asked.clear()
    with contextlib.suppress(ValueError):  # RA does not rise along this dial
        calibrate_dial(model, data, attack)
    assert "bypassed" in {form for form, _ in asked}
    asked.clear()
    recipe = load_recipe("oat-digits", changes=["select.images=60", "select.steps=2", "select.robustness=[0.5]"])
    Watch(recipe, data, epochs=1).score(model, 1)
    assert "bypassed" in {form for form, _ in asked}


def test_the_fit_parts_right_from_wrong_and_is_kept_in_the_file(digits, tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(300, 10, generator=generator) for _ in range(2)]
    sure, unsure = noise[0].clone(), noise[1].clone()
    sure[:, 0] += 8.0
    unsure[:, 0] += 3.0
    found = fitted_to(sure, unsure, beta=0.98)
    above = float((margins(sure, found.scale, found.power, found.bias) >= found.cutoff).float().mean())
    assert above == pytest.approx(0.98, abs=0.005)
    assert 0.05 <= found.cutoff <= 0.95
    plain = margins(sure, 1.0, 1.0, 0.0).quantile(0.02)
    assert found.wrong_above < float((margins(unsure, 1.0, 1.0, 0.0) >= plain).float().mean())
    with pytest.raises(ValueError, match="misclassified clean ones; there are 300 and 0"):
        fitted_to(sure, unsure[:0])
    model = made()
    (fitting,) = fittings(model)
    fit = digits[0].only(torch.arange(200))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = fitting.fit(model, fit, Attack("pgd", 0.1, 2))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= {f"net.nonlinearity.{k}" for k in ("scale", "power", "bias")}
    assert changed
    assert float(model.net.nonlinearity.scale) == pytest.approx(first.scale)
    again = artifact.load(artifact.save(tmp_path / "m.safetensors", model))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x, Point(robustness=0.7)), model(x, Point(robustness=0.7)))
    assert fit_nonlinearity(model, fit, Attack("pgd", 0.1, 2)) == first
    with pytest.raises(ValueError, match="no nonlinearity to fit"):
        fit_nonlinearity(Tunable(nets.resnet(depth=8, base_width=4), compose("mixing")), fit, Attack("pgd", 0.1, 2))


def test_a_margin_is_negative_where_the_nonlinearity_changes_the_answer() -> None:
    # GELU falls from 0 to -0.17 and rises again: with c = -3 the least likely class comes first.
    logits = torch.tensor([[2.0, 1.0, 0.0, -3.0]])
    assert float(margins(logits, 5.0, 1.0, -2.0)) < 0 < float(margins(logits, 5.0, 1.0, 0.0))


def test_options_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'mixednuts'"):
        compose("mixing", mix="mixednut")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        compose("mixednuts", temperature=0.0)


def test_two_classes_are_refused() -> None:
    net = nets.resnet(depth=8, base_width=4, image=(1, 8, 8), classes=2)
    with pytest.raises(ValueError, match="mixednuts needs at least 3 classes, this network has 2; use mixing"):
        Tunable(net, compose("mixednuts"))
    # The refusal installed nothing, so the advice can be followed with the same network.
    assert Tunable(net, compose("mixing"))(torch.rand(2, 1, 8, 8)).shape == (2, 2)


def test_a_network_that_every_row_skips_gets_no_batch_of_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made(), torch.rand(3, 1, 8, 8)
    forward, sizes = type(model.net).forward, []
    monkeypatch.setattr(type(model.net), "forward", lambda net, y, at: (sizes.append(len(y)), forward(net, y, at))[1])
    for level in (0.0, 1.0):
        found = model(x, Point(robustness=torch.full((3,), level)))
        assert torch.allclose(found, model(x, Point(robustness=level)), atol=1e-5)
    assert min(sizes) == 3
