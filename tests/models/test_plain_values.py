"""Numbers of NumPy and torch as options of methods and networks are plain numbers in the model and its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import rheostat
from rheostat import nets
from rheostat.methods import Dedicated, Dual, Method, Slim, Stack, compose
from rheostat.models import artifact
from rheostat.models.tunable import Tunable
from support import Plain


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (compose("pgd-at", robustness=np.linspace(0, 1, 5)[1]), compose("pgd-at", robustness=0.25)),
        (compose("pgd-at", robustness=torch.tensor(0.25)), compose("pgd-at", robustness=0.25)),
        (Dedicated(np.float64(0.25)), Stack(Dedicated(0.25))),
        (Slim(widths=tuple(np.linspace(0.25, 1, 4))), Stack(Slim(widths=(0.25, 0.5, 0.75, 1.0)))),
        (Stack(Dual(), Slim(widths=[0.5, 1.0])), Stack(Dual(), Slim(widths=(0.5, 1.0)))),  # type: ignore[arg-type]
    ],
)
def test_the_options_of_a_saved_method(given: Method, expected: Stack, tmp_path: Path) -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), given)
    again = artifact.load(artifact.save(tmp_path / "m.safetensors", model))
    assert again.method == expected
    assert repr(again.method) == repr(model.method) == repr(expected)


def test_what_loading_would_refuse_is_not_written(tmp_path: Path) -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), Dedicated(0.25))
    object.__setattr__(model.method.methods[0], "robustness", np.float64(0.25))
    with pytest.raises(ValueError, match="not a plain value"):
        artifact.save(tmp_path / "m.safetensors", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda v: tuple(map(np.float32, v)), lambda v: v])
def test_the_options_of_a_saved_network(kind: type, tmp_path: Path) -> None:
    mean, std = kind([0.25, 0.5, 0.75]), kind([0.5, 0.5, 0.25])
    net = nets.resnet(depth=np.int64(8), base_width=4, mean=mean, std=std)
    assert net.spec["mean"] == (0.25, 0.5, 0.75)
    again = artifact.load(artifact.save(tmp_path / "m.safetensors", Tunable(net, compose("dual"))))
    assert torch.equal(again.net.normalise.mean, net.normalise.mean)
    Tunable(nets.resnet(depth=8, base_width=4, mean=mean), compose("mixing"))  # builds the twin from the spec


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda v: list(map(np.float32, v))])
def test_the_statistics_of_an_adopted_module(kind: type, tmp_path: Path) -> None:
    model = rheostat.adopt(Plain(), "dual", image=(3, 16, 16), mean=kind([0.25, 0.5, 0.75]), std=kind([0.5, 0.5, 0.25]))
    again = artifact.load(model.save(tmp_path / "m.safetensors"), net=Plain)
    assert again.net.spec["mean"] == (0.25, 0.5, 0.75)


@pytest.mark.parametrize("make", [lambda **v: rheostat.adopt(Plain(), "dual", image=(3, 16, 16), **v), nets.resnet])
def test_a_number_is_not_the_statistics_of_every_channel(make: Callable[..., object]) -> None:
    for given in (0.5, np.float32(0.5), torch.tensor(0.5)):
        with pytest.raises(ValueError, match=r"mean and std need one value per channel \(3\), given std=0.5"):
            make(std=given)
