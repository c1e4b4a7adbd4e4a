"""The benchmarks of attacks and of early exit by runtime, and the sections that show them and the timed recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.artifact import About
from rheostat.models.tunable import Tunable

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    added = [str(BENCHMARKS / name) for name in ("measure", "pages")]
    sys.path[:0] = added
    yield
    for path in added:
        sys.path.remove(path)


def test_both_sides_of_the_sweep_and_of_the_tier_attack_the_same_images() -> None:
    """PGD of both libraries agrees on RA within noise, and `standard` is as strong as AutoAttack."""
    from attack_speed import standard, subject, sweep

    of = subject("oat-digits", 40)
    swept = sweep(of, 2, low=True)
    assert [row["b"] for row in swept] == ["rheostat", "rheostat, bf16", "warm"]
    assert all(abs(row["gap"]) < 0.06 for row in swept[:2])  # type: ignore[arg-type]
    judged = standard(subject("oat-digits", 20), 2, low=False)
    assert [row["a"] for row in judged] == ["standard"]
    assert abs(judged[0]["gap"]) <= 0.05  # type: ignore[arg-type]


def test_forms_of_early_exit_agree_in_every_runtime(tmp_path: Path) -> None:
    """Files with exits, exits that none takes, and no exits: the last two give the same logits, in each runtime."""
    from exit_runtimes import by_runtime, in_turns

    torch.manual_seed(0)
    model = Tunable(nets.small_cnn(image=(1, 8, 8)), compose("rdi"))
    model.method.finish(model.net)
    model.net.get_buffer("thresholds").fill_(1.0)
    runtimes = by_runtime(model, About(tuple("0123456789"), {}, {}), tmp_path, 1)
    assert {"PyTorch", "ONNX Runtime"} <= set(runtimes)
    x = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        for forms in runtimes.values():
            torch.testing.assert_close(forms["no image leaves"](x), forms["static"](x), atol=1e-2, rtol=1e-2)
            taken = in_turns(forms, [x, x])
            assert set(taken) == {"early exit", "no image leaves", "static"}
            assert all(len(times) == 2 and min(times) > 0 for times in taken.values())


def test_the_section_on_exits_states_goals_and_who_left() -> None:
    from exit_times import section

    row: dict[str, Any] = {
        "name": "exits",
        "runtime": "OpenVINO bf16",
        "batch": 256,
        "n": 16,
        "threads": 1,
        "goal": 0.75,
        "milliseconds": {"static": 80.0, "early exit": 56.0, "no image leaves": 84.0},
        "ratio": {
            "early exit": {"median": 0.7, "low": 0.69, "high": 0.72},
            "no image leaves": {"median": 1.05, "low": 1.04, "high": 1.06},
        },
        "net": {"name": "resnet", "depth": 18, "base_width": 32},
        "examples": 4096,
        "clean_accuracy": {"early exit": 0.9, "static": 0.905},
        "taken": [0.25, 0.5, 0.25],
        "hardware": {"device": "a chip"},
    }
    text, claims = section([row, {**row, "batch": 1, "goal": None}])
    assert "25, 50, 25 % take each exit" in text
    assert "SA is 90.0 with exits and 90.5 without" in text
    assert claims == [["early exit in OpenVINO bf16, batch 256: ≥ 25 % of latency saved", "30 %", "met"]]
    row["ratio"]["early exit"]["median"] = 0.8
    assert section([row])[1][0][1:] == ["20 %", "not met"]


def test_the_timed_recipe_is_judged_on_calibrate_choose_within_its_minutes() -> None:
    from fast import timed

    reached = [end(0.0, "calibrate-choose", 1000, 0.9, 0.0), end(1.0, "calibrate-choose", 1000, 0.74, 0.43)]
    counts = [{"run": "cifar10-resnet18", "flops": 1.5e15}]
    assert "| 24 | calibrate-choose | 90.0 | 74.0 | 43.0 | 50 | 1.50 | 1000 | met |" in timed(reached, counts)
    assert "| 50 |  | 1000 | met |" in timed(reached, []), "a count that is missing is not a zero"
    short = [end(0.0, "calibrate-choose", 1000, 0.9, 0.0), end(1.0, "calibrate-choose", 1000, 0.74, 0.41)]
    assert "| not met |" in timed(short, counts)
    late = [end(at, "calibrate-choose", 1000, 0.9, 0.5, 3700.0) for at in (0.0, 1.0)]
    assert "| not met |" in timed(late, counts)
    assert "Not yet run" in timed(reached[:1], counts)


def test_two_dedicated_networks_count_as_one_training_of_summed_cost() -> None:
    from fast import DEDICATED, timed

    both = [
        {**end(0.0, "test", 1000, 0.9, 0.0, 600.0), "run": DEDICATED[0], "at": {}},
        {**end(1.0, "test", 1000, 0.74, 0.43, 1500.0), "run": DEDICATED[1], "at": {}},
    ]
    both[0]["train"]["epochs"] = 8
    counts = [{"run": name, "flops": flops} for name, flops in zip(DEDICATED, (0.2e15, 0.7e15), strict=True)]
    assert "| 8 + 24 | test | 90.0 | 74.0 | 43.0 | 35 | 0.90 | 1000 |  |" in timed(both, counts)
    assert "Not yet run" in timed(both[:1], counts)


def end(at: float, split: str, n: int, clean: float, robust: float, seconds: float = 3000.0) -> dict[str, Any]:
    """A row at one end of the dial of a timed run."""
    return {
        "run": "cifar10-resnet18",
        "rule": None,
        "at": {"robustness": at},
        "split": split,
        "tier": "quick",
        "n": n,
        "attack": {"name": "worst"},
        "clean_accuracy": clean,
        "robust_accuracy": robust,
        "train": {"seconds": seconds, "epochs": 24},
    }


def test_flops_of_a_convolution_are_counted_forward_and_backward() -> None:
    """Two for each multiplication; an attack's pass, without gradients to the weights, counts two passes of three."""
    from flop_counts import flops

    layer = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    forward = 2 * 2 * 8 * 8 * 8 * 3 * 9
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    assert flops(lambda: layer(x)) == forward
    assert flops(lambda: layer(x).sum().backward()) == 3 * forward
    layer.requires_grad_(False)
    assert flops(lambda: torch.autograd.grad(layer(x).sum(), x)) == 2 * forward


def test_passes_of_a_step_are_counted_at_each_width() -> None:
    from speed import rows_at, rows_of

    net = nets.resnet(depth=8, image=(1, 28, 28))
    plain = Tunable(net, compose("dual"))
    assert set(rows_at(plain, 16, 2, 1)) == {1.0}
    trained, attacked = rows_at(plain, 16, 2, 1)[1.0]
    assert rows_of(plain, 16, 2, 1) == (trained, attacked)
    slim = Tunable(nets.resnet(depth=8, image=(1, 28, 28)), compose("oats"))
    by_width = rows_at(slim, 16, 2, 1)
    assert set(by_width) == set(slim.dials["width"].values)
    assert rows_of(slim, 16, 2, 1)[0] < sum(trained for trained, _ in by_width.values())


def test_parts_are_shown_as_shares_of_the_whole() -> None:
    from latencies import runtimes

    def row(part: str, milliseconds: float, macs: int) -> dict[str, Any]:
        forms = {
            name: {"median": milliseconds, "threads": 1} for name in ("eager", "folded", "ONNX Runtime", "OpenVINO")
        }
        return {
            "net": "ResNet-18",
            "part": part,
            "batch": 32,
            "milliseconds": forms,
            "gaps": dict.fromkeys(forms, 0.0),
            "macs": macs,
            "hardware": {"device": "a chip"},
        }

    text = runtimes([row("whole", 20.0, 400), row("width 0.5", 6.0, 100)])
    assert "| ResNet-18 | width 0.5 | 32 | 0.25 | 0.30 | 0.30 | 0.30 |  | 0.30 |  |  |" in text
