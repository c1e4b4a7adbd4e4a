"""Adoption of modules that call functions on their own tensors, share them, freeze them or compute them."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import rheostat
from rheostat.methods import Dual
from support import Computed


class TwoConvolutions(nn.Module):
    """Two convolutions, of two weights of one module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.3 * torch.randn(4, 1, 3, 3))
        self.second = nn.Parameter(0.3 * torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, self.first), self.second)


class Gained(nn.Conv2d):
    """A convolution with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__(1, 4, 3)
        self.gain = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class TwoNorms(nn.Module):
    """Two layer norms of one module, with equal values, around a layer that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)
        self.w1, self.w2 = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(self.layer(F.layer_norm(x, (8,), self.w1)), (6,), self.w2)


class Twice(nn.Module):
    """One weight in two calls, with these strides."""

    def __init__(self, *strides: int) -> None:
        super().__init__()
        self.weight, self.strides = nn.Parameter(0.3 * torch.randn(1, 1, 3, 3)), strides

    def forward(self, x: Tensor) -> Tensor:
        for stride in self.strides:
            x = F.conv2d(x, self.weight, stride=stride)
        return x


class Elsewhere(nn.Module):
    """A norm whose weight the forward uses a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (8,), self.weight) + self.weight


class Normed(nn.Module):
    """A convolution whose weight the forward uses a second time, under a name that its seat does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(4, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel) * self.kernel.norm()


class TwoWays(nn.Module):
    """Two calls that are the same, one with an explicit None."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, self.weight), self.weight, None)


class Blurred(nn.Module):
    """A convolution with a fixed filter, which is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((1, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


def network(layer: nn.Module) -> nn.Module:
    """A classifier of 8 × 8 images around a layer."""
    torch.manual_seed(0)
    return nn.Sequential(layer, nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10)).eval()


def adopted(module: nn.Module) -> rheostat.Tunable:
    return rheostat.adopt(module, Dual(), image=(1, 8, 8))


def names(model: rheostat.Tunable) -> set[str]:
    """The layers of an adopted network, as its file names them."""
    return {line.split(":")[0] for line in model.net.architecture}


@pytest.mark.parametrize(
    ("layer", "seats"),
    [
        (TwoConvolutions, {"0.first_seat", "0.second_seat"}),
        (Gained, {"0.weight_seat"}),
        (TwoNorms, {"0.seat", "0.layer", "0.w2_seat"}),
    ],
)
def test_each_weight_of_a_module_gets_its_own_seat(layer: type[nn.Module], seats: set[str]) -> None:
    module, x = network(layer()), torch.rand(3, 1, 8, 8)
    expected = module(x)
    model = adopted(module)
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert seats <= names(model)


@pytest.mark.parametrize("layer", [lambda: Twice(1, 1), TwoWays])
def test_a_weight_that_several_equal_calls_use_stays_one(layer) -> None:
    module = nn.Sequential(layer(), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 10))
    x = torch.rand(3, 1, 8, 8)
    expected = module.eval()(x)
    model = adopted(module)
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert "0" in names(model)
    assert sum(p.shape == (1, 1, 3, 3) for p in model.parameters()) == 1


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def deprecated(make: str) -> nn.Module:
    """A convolution under one of PyTorch's older utilities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer: nn.Module = getattr(nn.utils, make)(nn.Conv2d(1, 4, 3))
    return layer


def hooked() -> nn.Module:
    layer = nn.Conv2d(1, 4, 3)
    layer.register_forward_hook(lambda module, given, out: 2 * out)
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: deprecated("spectral_norm"), r"layer '0' \(Conv2d\): it has a forward hook"),
        (lambda: deprecated("weight_norm"), r"layer '0' \(Conv2d\): it has a forward hook"),
        (lambda: prune.l1_unstructured(nn.Conv2d(1, 4, 3), "weight", 0.5), r"layer '0' \(Conv2d\): it has a forward"),
        (hooked, r"layer '0' \(Conv2d\): it has a forward hook"),
        (lambda: Computed(1, 4), r"layer '0' \(Computed\): its weight is computed"),
        (Tied, r"'0.b.weight': it is the same parameter as '0.a.weight'"),
        (lambda: Twice(1, 2), "uses the weight '0.weight' in two calls that differ"),
        (Elsewhere, "uses '0.weight' in a layer's call and elsewhere"),
        (Normed, "uses '0.kernel' in a layer's call and elsewhere"),
    ],
)
def test_what_would_be_lost_or_doubled_is_refused_by_name(layer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rheostat.adopt(nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(10)), "pgd-at", image=(1, 8, 8))


def test_frozen_parameters_stay_frozen() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(0.3 * torch.randn(4, 1, 3, 3), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight)

    module = nn.Sequential(Raw(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    module[1].requires_grad_(False)
    module[2].weight.requires_grad_(False)
    module[4].bias.requires_grad_(False)
    model = adopted(module)
    frozen = [tuple(p.shape) for p in model.parameters() if not p.requires_grad]
    assert sorted(frozen) == sorted([(4, 1, 3, 3), *[(4,)] * 4, (4, 4, 3, 3), (10,)])  # two norm sets
    assert sum(p.requires_grad for p in model.parameters()) == 2


def test_a_buffer_that_serves_as_a_weight_does_not_train() -> None:
    module = nn.Sequential(Blurred(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    model = rheostat.adopt(module, "pgd-at", image=(1, 8, 8))
    assert [tuple(p.shape) for p in model.parameters() if not p.requires_grad] == [(1, 1, 3, 3)]


def test_a_network_that_is_frozen_as_a_whole_is_refused_in_training(tmp_path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)).requires_grad_(False)
    model = rheostat.adopt(module, "pgd-at", image=(1, 8, 8))
    images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
    with pytest.raises(ValueError, match="no parameter of this model can be trained, because all"):
        rheostat.fit(
            model, (images, labels), val_set=(images, labels), eps=0.1, epochs=1, batch=8, out=tmp_path, device="cpu"
        )
