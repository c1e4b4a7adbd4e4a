"""The start of a run from other weights: names of every kind are found, and what finds no place is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheostat
from rheostat import Point, nets
from rheostat.methods import compose
from rheostat.models.tunable import Tunable
from rheostat.training.starting import start_from
from support import Plain


class Own(nn.Module):
    """A network of a user's: a part of it is called `net`, and its forward convolves with a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.kernel = nn.Parameter(0.1 * torch.randn(8, 8, 3, 3))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.conv2d(self.net(x), self.kernel, stride=2).mean((2, 3)))


def network(kind: type[nn.Module], seed: int) -> nn.Module:
    """A network whose tensors have all been moved off their initial values."""
    torch.manual_seed(seed)
    module = kind().eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape) if "var" in name else 0.1 * torch.randn(tensor.shape))
    return module


def adopted(module: nn.Module, method: str = "dual", **options: object) -> Tunable:
    return rheostat.adopt(module, method, image=(3, 8, 8), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Own, Plain])
def test_an_adopted_network_starts_from_its_module_and_from_its_run(kind: type[nn.Module], tmp_path: Path) -> None:
    module, x = network(kind, 1), torch.rand(3, 3, 8, 8)
    (tmp_path / "a").mkdir()
    adopted(module).save(tmp_path / "a" / "model.safetensors")
    for given in (module.state_dict(), tmp_path / "a"):
        model = adopted(network(kind, 2))
        start_from(model, given)
        for level in (0.0, 1.0):  # both sets of the bank
            torch.testing.assert_close(model(x, Point(robustness=level)), module(x), rtol=1e-4, atol=1e-5)


def test_other_exits_cut_the_same_network_into_other_blocks(tmp_path: Path) -> None:
    module, x = network(Plain, 1), torch.rand(3, 3, 8, 8)
    file = adopted(module, "pgd-at").save(tmp_path / "m.safetensors")
    model = adopted(network(Plain, 2), "rdi", exits=("stem", "down"))
    with pytest.warns(UserWarning, match=r"^init: \d+ of the model's \d+ weights are not in .*m\.safetensors: "):
        start_from(model, file)  # the exits have weights of their own
    torch.testing.assert_close(model(x, Point(depth=3)), module(x), rtol=1e-4, atol=1e-5)


def test_what_finds_no_place_is_counted() -> None:
    source, model = (Tunable(nets.resnet(depth=8, base_width=4), compose(paper)) for paper in ("dual", "pgd-at"))
    norms = sum(".source." in name for name, _ in model.named_parameters())
    tensors = sum(".source." in name for name in source.state_dict())
    given = f"^init: {norms} of the model's {len(list(model.parameters()))} weights are not in the state dict: "
    places = f" and {norms - 3} more; {tensors} tensors of the state dict are not in the model: "
    with pytest.warns(UserWarning, match=f"{given}.*{places}"):
        start_from(model, source.state_dict())
