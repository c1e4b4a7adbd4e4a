"""A user's own module by name; judgements in full precision."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import rheostat
from rheostat.attacks import named
from rheostat.data import subset
from rheostat.evaluation.arguments import as_points
from rheostat.evaluation.attacked import outcome
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.stale import check_fit
from rheostat.evaluation.target import Target, digest_of
from rheostat.models import artifact
from rheostat.models.factories import from_factory
from rheostat.points.point import Point


def test_a_factory_is_found_on_the_search_path_which_stays_what_it_was(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a_module_of_mine.py").write_text("import torch\n\ndef make():\n    return torch.nn.Identity()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    before = list(sys.path)
    for name in ("a_module_of_mine:make", "no_such_module:make"):
        with pytest.raises(ValueError, match="cannot import"):
            from_factory(name)
    assert sys.path == before
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(from_factory("a_module_of_mine:make"), torch.nn.Identity)


def test_the_command_line_finds_a_factory_in_the_working_directory(tmp_path: Path, monkeypatch, capsys) -> None:
    from rheostat.cli import main

    (tmp_path / "my_nets.py").write_text("def make():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    with pytest.raises(SystemExit):
        main(["evaluate", "my_nets:make", "--data", "digits", "--eps", "0.1"])
    assert "returned a int" in capsys.readouterr().err


def test_a_judgement_is_in_full_precision_whatever_its_caller_set(digits) -> None:
    seen = set()

    class Noting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add((torch.is_autocast_enabled("cpu"), torch.backends.cuda.matmul.allow_tf32))
            return x.flatten(1)[:, :10]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outcome(Noting(), None, subset(digits[1], 20), named("fgsm", eps=0.1, norm="linf"))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {(False, False)}


@pytest.mark.parametrize("name", sorted(artifact.packaged()))
def test_a_model_in_memory_has_the_hash_of_its_file(name: str, tmp_path: Path) -> None:
    model = rheostat.load(name)
    assert digest_of(model) == artifact.digest(name)
    assert digest_of(model) == artifact.digest(model.save(tmp_path / "x.safetensors"))


def test_whatever_decides_the_outputs_changes_the_hash(tmp_path: Path) -> None:
    model, other = rheostat.load("oat-digits"), rheostat.load("oat-digits")
    other.dial_map = None
    assert artifact.digest(artifact.save(tmp_path / "x.safetensors", other)) == digest_of(other)
    robust = model.at(robustness=1.0)
    found = [
        *(digest_of(m) for m in (model, other, model.between("at-0"), model.between("at-0.5"))),
        *(digest_of(model.at(robustness=r)) for r in (0.0, 0.5, 0.50000001)),
        *(digest_of(nn.Sequential(nn.Identity(), m)) for m in (robust, other.at(robustness=1.0))),
        *(digest_of(nn.Sequential(nn.Flatten(), activation)) for activation in (nn.ReLU(), nn.Tanh())),
    ]
    assert len(set(found)) == len(found)
    assert digest_of(rheostat.load("oat-digits").at(robustness=1.0)) == digest_of(robust)
    model.points["named"] = Point(robustness=0.5)
    assert digest_of(model) == found[0]  # a name does not change the model
    model.net.spec = {}  # no file can hold such a network
    assert digest_of(model) not in found


def test_an_address_in_memory_is_no_part_of_the_hash() -> None:
    class Applied(nn.Module):
        def extra_repr(self) -> str:
            return repr(lambda x: x)

    kept = [Applied(), Applied()]
    assert digest_of(kept[0]) == digest_of(kept[1])


def test_a_point_is_not_given_the_rows_of_another(digits, tmp_path: Path) -> None:
    model, few = rheostat.load("oat-digits"), subset(digits[1], 20)
    options = EvaluationOptions(out=tmp_path / "rows.jsonl", eps=0.1)
    rows = [evaluate(model.at(robustness=r), None, "fgsm", few, options=options)[-1] for r in (0.0, 1.0)]
    assert [r.at["robustness"] for r in rows] == [0.0, 1.0]
    assert rows[0].clean_accuracy > rows[1].clean_accuracy or rows[0].robust_accuracy < rows[1].robust_accuracy
    inside = [nn.Sequential(nn.Identity(), model.at(robustness=r)) for r in (0.0, 1.0)]
    evaluate(inside[0], None, "fgsm", few, options=options)
    with pytest.raises(ValueError, match=r"measured on another model.*--fresh.*EvaluationOptions\(fresh=True\)"):
        evaluate(inside[1], None, "fgsm", few, options=options)


def test_points_are_grids_points_dicts_or_lists_of_them() -> None:
    target = Target(rheostat.load("oat-digits"), "digits")
    low, high = as_points(target, "robustness=0.3,1")
    for given in (Point(robustness=0.3), {"robustness": 0.3}, ["robustness=0.3"], [Point(robustness=0.3)]):
        assert as_points(target, given) == [low]
    assert as_points(target, ["robustness=0.3,1", {"robustness": 0.3}]) == [low, high, low]
    with pytest.raises(ValueError, match="plain has no dials"):
        as_points(Target(nn.Identity(), "plain"), Point(robustness=0.3))


class Keyed(nn.Module):
    """A module of the user's whose code raises."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return {}["logits"]


class Auxiliary(nn.Sequential):
    """Logits beside those of an auxiliary head."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x), super().forward(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
            r"gives a tensor \(2, 5\) for 2 images of 1 × 8 × 8.*\(2, 10\)",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1000)), r"gives a tensor \(2, 1000\)"),
        (Auxiliary(nn.Flatten(), nn.Linear(64, 10)), "gives a tuple for 2 images"),
        (nn.Conv2d(3, 8, 3), "Conv2d failed on images of 1 × 8 × 8: it raised RuntimeError: "),
        (Keyed(), "Keyed failed on images of 1 × 8 × 8: it raised KeyError: 'logits'"),
    ],
)
def test_a_module_that_does_not_fit_the_data_is_refused(module: nn.Module, message: str, digits) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(module, None, "fgsm", subset(digits[1], 20), options=EvaluationOptions(eps=0.1))


def test_looking_at_a_module_leaves_it_as_it_was(digits) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))
    kept, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    check_fit(Target(net, "x"), subset(digits[1], 20))
    assert net.training
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_classes_of_the_model_in_another_order_are_refused(digits) -> None:
    few, options = subset(digits[1], 10), EvaluationOptions(eps=0.1)
    words = ("zero", "one", *(f"digit {i}" for i in range(2, 10)))
    swapped = replace(few, classes=("one", "zero", *words[2:]))
    model = rheostat.load("oat-digits")
    model.about = replace(model.about, classes=words)
    for given in (model, model.at(robustness=1.0), Target(model, "x")):
        with pytest.raises(
            ValueError, match=r"in another order: from label 0 they are one, zero, .*, but zero, one, .* in the"
        ):
            evaluate(given, None, "fgsm", swapped, options=options)
    named = replace(few, classes=tuple(f"number {i}" for i in reversed(range(10))))
    assert evaluate(model, "robustness=1", "fgsm", named, options=options)
