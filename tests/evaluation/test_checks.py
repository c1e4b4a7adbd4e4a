"""Every flag: a planted fault raises it, and a sound model is left in peace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rheostat
from rheostat.attacks import Attack, named
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation.attacked import attack_chunk, victim_at
from rheostat.evaluation.checks import Finding, of_attacks, of_model, probe
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.evaluation.tiers import attacks_of
from rheostat.models.tunable import Tunable
from rheostat.points.grid import parse_grid
from rheostat.points.point import Point
from rheostat.results import flags

EPS = 0.2
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 100)


@pytest.fixture(scope="module")
def batch(sample) -> tuple[Tensor, Tensor]:
    return to_pixels(sample.images), sample.labels


class Wrapped(nn.Module):
    """The packaged model at one point, with a fault put before, behind or around it."""

    def __init__(self, robustness: float = 1.0) -> None:
        super().__init__()
        self.inner = rheostat.load("oat-digits").at(robustness=robustness).unchecked()

    def before(self, x: Tensor) -> Tensor:
        return x

    def behind(self, logits: Tensor) -> Tensor:
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.inner(self.before(x)))


class Noisy(Wrapped):
    def before(self, x: Tensor) -> Tensor:
        return x + 0.05 * torch.randn_like(x)


class Softmax(Wrapped):
    def behind(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class Rounding(Wrapped):
    def before(self, x: Tensor) -> Tensor:
        return (x * 8).round() / 8


class Saturated(Wrapped):
    def behind(self, logits: Tensor) -> Tensor:
        return 1e4 * logits


class Detached(Wrapped):
    def behind(self, logits: Tensor) -> Tensor:
        return logits.detach()


class NotANumber(Wrapped):
    def before(self, x: Tensor) -> Tensor:
        # The root's slope at 0 is infinite, and infinite times 0 is not a number.
        return x + 0 * (x - x).sqrt()


class OnGrid(Wrapped):
    """Has a gradient only on images of 8 bits, as FGSM finds them and PGD's random start does not."""

    def forward(self, x: Tensor) -> Tensor:
        bits = x.detach() * 255
        clean = ((bits - bits.round()).abs().flatten(1).amax(1) < 1e-3)[:, None]
        logits = super().forward(x)
        return torch.where(clean, logits, logits.detach())


class Lucky(Wrapped):
    """Has a gradient only where one pixel happens to lie well: one start in four."""

    def forward(self, x: Tensor) -> Tensor:
        lucky = ((x.detach()[:, 0, 4, 4] * 97) % 1 < 0.25)[:, None]
        logits = super().forward(x)
        return torch.where(lucky, logits, logits.detach())


class Remembering(Wrapped):
    """Recognises what lies far from the images it knows, and answers as if nothing had happened."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.images, self.labels = images, labels

    def forward(self, x: Tensor) -> Tensor:
        away = (x[:, None] - self.images[None]).flatten(2).abs().amax(2)
        nearest = away.min(1)
        far = (nearest.values > 1.2 * EPS)[:, None]
        known = 10 * nn.functional.one_hot(self.labels[nearest.indices], 10).float()
        return torch.where(far, known, super().forward(x))


class Batchwise(Wrapped):
    """Right or wrong by the place in the batch."""

    def behind(self, logits: Tensor) -> Tensor:
        sign = torch.linspace(1, -1, len(logits)).sign()[:, None]
        return logits * sign if not torch.is_grad_enabled() else logits


def names(found: list[Finding]) -> set[str]:
    return {f.flag for f in found}


def probed(model: nn.Module, batch: tuple[Tensor, Tensor], attack: Attack) -> set[str]:
    standing = attack_chunk(victim_at(model), *batch, attack, (0,)).robust
    return names(list(probe(model, None, *batch, attack, standing).findings))


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (Noisy, "random-output"),
        (Softmax, "probabilities"),
        (Rounding, "zero-gradients"),
        (Saturated, "zero-gradients"),
        (Detached, "zero-gradients"),
        (NotANumber, "zero-gradients"),
    ],
)
def test_a_fault_in_the_model(make, flag: str, batch) -> None:
    assert flag in names(of_model(make().eval(), None, *batch))


def test_a_module_left_in_training(batch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    assert names(of_model(net, None, *batch)) == {"train-mode"}
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    assert of_model(net.eval(), None, *batch) == []


def test_a_sound_model_is_left_in_peace(batch) -> None:
    model = Wrapped().eval()
    assert of_model(model, None, *batch) == []
    assert probed(model, batch, named("pgd50x5", eps=EPS / 2)) == set()


@pytest.mark.parametrize(
    ("make", "attack", "flag"),
    [
        (Rounding, "pgd20", "large-eps-survives"),
        (OnGrid, "pgd20", "one-step-better"),
        (Lucky, "pgd20", "restarts-gain"),
        (Noisy, "pgd20", "eps-0-differs"),
    ],
)
def test_a_fault_found_by_more_attacks(make, attack: str, flag: str, batch) -> None:
    assert flag in probed(make().eval(), batch, named(attack, eps=EPS))


def test_a_memory_that_knows_far_images(batch) -> None:
    found = probed(Remembering(*batch).eval(), batch, named("pgd20", eps=EPS))
    assert "not-falling-in-eps" in found
    assert "large-eps-survives" in found


def test_an_attack_stopped_early(batch) -> None:
    weak = named("pgd10", eps=EPS, step_size=0.1 * EPS)
    assert names(of_attacks([weak])) == {"weak-budget"}
    assert of_attacks([named("pgd10", eps=EPS)]) == []
    found = probed(Wrapped().eval(), batch, named("pgd10", eps=EPS, step_size=0.02 * EPS))
    assert {"loss-still-moving", "steps-gain"} <= found


def flags_of(rows: list[dict], name: str = "worst") -> set[str]:
    return {f for r in rows if r.attack.name == name for f in r.flags}


def test_gradients_masked_and_square_finds_the_way(sample) -> None:
    attacks = [named(n, eps=EPS) for n in ("pgd20", "square200")]
    rows = evaluate(Target(Rounding().eval(), "rounding"), [None], attacks, sample)
    assert {"square-gain", "quick-too-weak", "zero-gradients"} <= flags_of(rows)


def test_images_that_prove_nothing(sample) -> None:
    class Outside(Attack):
        def __call__(self, objective, images, generator=None, *, share=None):
            return (images + 2 * self.eps).clamp(0, 1)

    model = rheostat.load("oat-digits")
    rows = evaluate(Target(model, "x"), [Point(robustness=1.0)], [Outside("pgd", 0.1, label="outside")], sample)
    assert "outside-threat-model" in flags_of(rows)
    assert rows[-1].robust_accuracy == rows[-1].clean_accuracy
    rows = evaluate(Target(Batchwise().eval(), "x"), [None], [named("pgd5", eps=EPS)], sample)
    assert "success-not-verified" in flags_of(rows)


def test_the_dials_own_masking(sample, monkeypatch) -> None:
    plain = Tunable.read

    def masked(self, x, at):
        hidden = at.gather(at.robustness.table).reshape(-1, 1, 1, 1) > 0.9
        return plain(self, torch.where(hidden, (x * 8).round() / 8, x), at)

    model = rheostat.load("oat-digits").between("at-0")
    monkeypatch.setattr(Tunable, "read", masked)
    rows = evaluate(
        Target(model, "x"),
        parse_grid("robustness=0.2,1"),
        [named("pgd20", eps=EPS)],
        sample,
        options=EvaluationOptions(transfer=True),
    )
    by = {r.at.get("robustness"): r for r in rows if r.attack.name == "worst"}
    assert "transfer-beats-known" in by[1.0].flags
    assert "transfer-beats-known" not in by[0.2].flags
    found = next(c for c in by[1.0].checks if c.flag == "transfer-beats-known")
    assert found.made_at in ("mean over points", {"robustness": 0.2})


@pytest.mark.parametrize("eps", [0.6, 0.5, 0.4])
def test_a_probe_covers_radii_above_one_half(batch, eps: float) -> None:
    standing = torch.ones(10, dtype=torch.bool)
    found = probe(Wrapped().eval(), None, batch[0][:10], batch[1][:10], named("pgd2", eps=eps), standing)
    assert [e for e, _ in found.eps_curve] == [0.0, eps / 4, eps / 2, eps, *([0.5] if eps < 0.5 else [])]


def test_few_classes_have_a_set_of_their_own(digits) -> None:
    keep = (digits[1].labels < 3).nonzero()[:40, 0]
    three = digits[1].only(keep)
    few = Dataset("three", three.images, three.labels, ("0", "1", "2"))
    assert "apgd-t" not in attacks_of("standard", 3)
    assert attacks_of("standard", 4).count("apgd-t") == 1

    class Three(Wrapped):
        def behind(self, logits: Tensor) -> Tensor:
            return logits[:, :3]

    chosen = [named(n, eps=EPS) for n in attacks_of("standard", 3) if not n.startswith("square")]
    rows = evaluate(
        Target(Three().eval(), "x"), [None], chosen, few, options=EvaluationOptions(tier="standard", probing=False)
    )
    assert flags_of(rows) >= {"untargeted-set"}
    assert rows[-1].robust_accuracy < rows[-1].clean_accuracy
    with pytest.raises(ValueError, match="did you mean 'standard'"):
        attacks_of("standart", 10)


@pytest.mark.slow
def test_standard_raises_nothing_on_a_sound_model(sample) -> None:
    model = rheostat.load("oat-digits")
    attacks = [named(n, eps=EPS / 2) for n in attacks_of("standard", 10)]
    rows = evaluate(
        Target(model, "x"), [Point(robustness=1.0)], attacks, sample, options=EvaluationOptions(tier="standard")
    )
    assert rows[-1].flags == []
    ladder = [r.robust_accuracy for r in rows]
    assert ladder == sorted(ladder, reverse=True)
    assert rows[-1].eps_curve[0][1] == rows[-1].clean_accuracy
    assert rows[-1].loss_curve == sorted(rows[-1].loss_curve)


def test_every_flag_is_explained_and_tested() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text()
    assert flags.page() in text
    tested = "".join(p.read_text() for p in sorted((ROOT / "tests").rglob("test_*.py")))
    missing = [name for name in flags.NAMES if f'"{name}"' not in tested]
    assert not missing
