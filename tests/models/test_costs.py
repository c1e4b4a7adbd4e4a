"""Costs are observed without touching the model, beside other threads and in any gradient mode."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from rheostat.methods.composition import compose
from rheostat.models.costs import exit_costs, observe
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from support import NETS, Computed, images_for, make


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(mode) -> None:
    model, point = make("oats", "resnet-8"), Point(width=0.5)
    expected = observe(model, model.net.image, point)
    with mode():
        assert observe(model, model.net.image, point) == expected
    exits = make("rdi", "resnet-8")
    costs = exit_costs(exits)
    with mode():
        assert exit_costs(exits) == costs


def test_predictions_of_another_thread_are_not_counted() -> None:
    """Hooks on the shared seats counted them: `macs_nonzero` was negative."""
    model = make("floats", "resnet-8")
    expected = observe(model, model.net.image)
    stop = threading.Event()
    problems: list[BaseException] = []

    def predict() -> None:
        x = images_for(model)
        try:
            while not stop.is_set():
                with torch.no_grad():
                    model(x)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        found = [observe(model, model.net.image) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert not problems
    assert found == [expected] * 3


def test_nothing_of_the_model_changes() -> None:
    torch.manual_seed(0)
    model = Tunable(NETS["resnet-8"](), compose("float", draw="sampled")).train()
    pointers = {k: v.data_ptr() for k, v in model.state_dict().items()}
    before = torch.get_rng_state()
    observe(model, model.net.image, Point(robustness=1.0))
    assert torch.equal(torch.get_rng_state(), before)
    assert {k: v.data_ptr() for k, v in model.state_dict().items()} == pointers
    assert all(m.training and not m._forward_hooks for m in model.modules())


class Counting(nn.Module):
    """A module that cannot be copied, and that counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.calls += 1
        return x


def test_observing_a_plain_module_in_train_mode_leaves_it_unchanged() -> None:
    norm = nn.BatchNorm2d(4).eval()
    module = nn.Sequential(nn.Conv2d(1, 4, 3), norm, Computed(4, 2), Counting())
    module[3].train(False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert observe(module, (1, 8, 8)).convolution_macs == 36 * 4 * 9 + 16 * 2 * 36
    assert [m.training for m in module] == [True, False, True, False]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
