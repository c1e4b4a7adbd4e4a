"""A user's own module, written without our seats: adopted, conditioned, fine-tuned; or refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rheostat
from rheostat import data
from rheostat.attacks import Attack
from rheostat.methods.composition import compose
from rheostat.nn.layers import Dense
from rheostat.points.point import Point
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import stream
from rheostat.training.step import Step
from support import images_for


class Own(nn.Module):
    """A small residual network in plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.left = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.right = nn.Conv2d(8, 16, (1, 1), stride=(2, 2))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.stem(x), inplace=True)
        x = F.relu(self.norm(self.left(x)) + self.right(x))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.head(self.drop(x.view(x.size(0), -1)))


def trained_clean(train: data.Dataset) -> Own:
    torch.manual_seed(0)
    net = Own()
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for i in range(120):
        rows = torch.randint(0, len(train), (128,), generator=torch.Generator().manual_seed(i))
        loss = F.cross_entropy(net(train.images[rows] / 255), train.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


@pytest.mark.parametrize("paper", ["pgd-at", "dual", "oat"])
def test_weights_are_kept_and_the_forward_is_unchanged(paper: str, digits) -> None:
    own = trained_clean(digits[0])
    before = {k: v.clone() for k, v in own.state_dict().items()}
    model = rheostat.adopt(own, compose(paper), image=(1, 8, 8))
    x = images_for(model)
    assert torch.allclose(model(x), own(x), atol=1e-5)
    assert model.net.classes == 10
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())
    normalised = rheostat.adopt(own, compose(paper), image=(1, 8, 8), mean=(0.3,), std=(0.5,))
    assert torch.allclose(normalised(x), own((x - 0.3) / 0.5), atol=1e-5)


def test_an_adopted_net_is_fine_tuned_from_its_clean_weights(digits) -> None:
    train, test = digits
    model = rheostat.adopt(trained_clean(train), compose("oat"), image=(1, 8, 8))
    attack = Attack("pgd", 0.15, 3, 0.07, drop=False)
    step = Step(model, attack, Ranks())
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for i in range(120):
        rows = torch.randperm(len(train), generator=stream(i))[:128]
        optimiser.zero_grad()
        terms = model.method.plan(128, stream("plan", i))
        step.backward(terms, train.images[rows] / 255, train.labels[rows], batch=128, seed=("t", i))
        optimiser.step()
    from rheostat.evaluation.attacked import outcome
    from rheostat.results.intervals import share

    view = model.between("at-0")
    found = [outcome(view, Point(robustness=v), test, Attack("pgd", 0.15, 10)) for v in (0.0, 1.0)]
    assert share(found[0].clean) > 0.8
    robust = [share(f.robust) for f in found]
    assert robust[1] > robust[0] + 0.1, robust


def test_what_cannot_be_taken_is_named() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.conv(x) if x.mean() > 0 else x

    class Functional(Branching):
        def forward(self, x):
            return F.dropout(self.conv(x).mean((2, 3)), training=self.training)

    class Two(Branching):
        def forward(self, x, y):
            return self.conv(x) + y

    def wrapped(layer: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.LazyLinear(10))

    cases = [
        (Branching(), "cannot be traced"),
        (Functional(), "forward calls dropout"),
        (Two(), "takes 2 arguments"),
        (wrapped(nn.InstanceNorm2d(4, track_running_stats=True)), r"'1' \(InstanceNorm2d\)"),
        (wrapped(nn.Dropout2d(0.1)), r"'1' \(Dropout2d\)"),
        (wrapped(nn.Conv2d(4, 4, 3, padding_mode="circular")), "'1': padding"),
        (wrapped(nn.BatchNorm2d(4, affine=False)), "'1': a BatchNorm2d needs"),
    ]
    for module, message in cases:
        with pytest.raises(ValueError, match=message):
            rheostat.adopt(module, compose("pgd-at"), image=(1, 8, 8))
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(ValueError, match="norms; this one has none"):
        rheostat.adopt(flat, compose("dual"), image=(1, 8, 8))


class Pixels(nn.Module):
    """Two Linear layers behind the convolutions; the last makes the logits, through a sum and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.hidden, self.last, self.other = nn.Linear(8, 8), nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))).mean((2, 3))
        x = F.relu(self.hidden(x))
        return 2 * (self.last(x) + self.other(x))


def test_every_width_of_an_adopted_net_has_all_classes() -> None:
    model = rheostat.adopt(Pixels(), "oats", image=(1, 8, 8)).eval()
    dense = {name: layer.head for name, layer in model.net.named_modules() if isinstance(layer, Dense)}
    assert {name.split(".")[-1]: head for name, head in dense.items()} == {"hidden": False, "last": True, "other": True}
    x = torch.rand(2, 1, 8, 8)
    for width in (0.5, 0.75, 1.0):
        assert model(x, rheostat.Point(width=width)).shape == (2, 10)
    last = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 10, 6), nn.Flatten())
    with pytest.raises(ValueError, match="'2': the logits come from a convolution"):
        rheostat.adopt(last, "oats", image=(1, 8, 8))
    assert rheostat.adopt(last, "oat", image=(1, 8, 8))(x).shape == (2, 10)


def test_a_composition_is_named_and_what_an_adopted_net_cannot_have_is_said() -> None:
    by_name, by_value = (rheostat.adopt(Own(), m, image=(1, 8, 8)) for m in ("oat", compose("oat")))
    assert by_name.method == by_value.method
    with pytest.raises(ValueError, match="no composition 'oast'; did you mean 'oat"):
        rheostat.adopt(Own(), "oast", image=(1, 8, 8))
    with pytest.raises(ValueError, match="exits need a network that yields features; an adopted one does not"):
        rheostat.adopt(Own(), "rdi", image=(1, 8, 8))
    assert rheostat.adopt(Own(), "mixing", image=(1, 8, 8))(torch.rand(2, 1, 8, 8)).shape[0] == 2


def test_saving_an_adopted_net_says_what_to_do(tmp_path) -> None:
    model = rheostat.adopt(Own(), compose("dual"), image=(1, 8, 8))
    with pytest.raises(ValueError, match="adopt the module again"):
        rheostat.save(tmp_path / "x.safetensors", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("paper", ["floats", "smart"])
def test_masks_of_an_adopted_net_keep_its_largest_weights(paper: str) -> None:
    """The forward at rest changes, by what the smallest weights were worth: less than half of what random ones are."""
    torch.manual_seed(0)
    own = Own().eval()
    x = torch.rand(16, 1, 28, 28)
    gaps = {}
    for start in ("auto", "random"):
        model = rheostat.adopt(own, compose(paper, density=0.8, start=start), image=(1, 28, 28))
        gaps[start] = float((model(x) - own(x)).detach().norm())
        for name, layer in (("stem.0", own.stem[0]), ("left", own.left), ("right", own.right)):
            seat = model.get_submodule(f"net.graph.{name}")
            kept = seat.weight != 0
            # What is kept is as it was.
            assert torch.equal(seat.weight[kept], layer.weight[kept])
            if start == "auto":
                assert int(kept.sum()) == round(0.8 * kept.numel())
                assert layer.weight[kept].abs().min() >= layer.weight[~kept].abs().max()
    assert 0 < gaps["auto"] < 0.5 * gaps["random"]


def test_disjoint_paths_of_an_adopted_net_share_out_its_largest_weights() -> None:
    own = Own().eval()
    model = rheostat.adopt(own, compose("smart", density=0.25, overlap="disjoint"), image=(1, 28, 28))
    masking = next(m for m in model.modules() if type(m).__name__ == "Masking")
    clean, robust = (path.mask.bool() for path in masking.paths)
    size = own.stem[0].weight.abs()
    assert not (clean & robust).any()
    assert size[clean].min() >= size[robust].max()
    assert size[robust].min() >= size[~clean & ~robust].max()
