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
from rheostat.models import adoption
from rheostat.nn.layers import Dense
from rheostat.points.point import Point
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import stream
from rheostat.training.step import Step
from support import Plain, images_for


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
        (wrapped(nn.Conv2d(4, 4, 2, padding="same")), "'1': padding 'same' is supported for odd kernels only"),
        (wrapped(nn.BatchNorm2d(4, momentum=None)), "'1': a BatchNorm2d needs"),
        (wrapped(nn.LayerNorm((6, 6))), "'1' normalises over 2 dimensions; only the last one"),
        (
            wrapped(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))),
            "'1' is a ParametrizedConv2d, which",
        ),
        (Deep(), "something else in training"),
        (Standardised(), "calls conv2d with a weight that it computes"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), nn.TransformerEncoderLayer(36, 2, 8)),
            r"'2.self_attn' \(MultiheadAttention\)",
        ),
        (nn.Conv2d(1, 4, 3), r"returned shape \(5, 4, 6, 6\)"),
        (nn.Linear(3, 3), "does not take images of 1 × 8 × 8"),
        (lambda: 3, "returned a int, expected a torch.nn.Module"),
    ]
    for module, message in cases:
        with pytest.raises(ValueError, match=message):
            rheostat.adopt(module, compose("pgd-at"), image=(1, 8, 8))
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(ValueError, match="norms; this one has none"):
        rheostat.adopt(flat, compose("dual"), image=(1, 8, 8))


class Deep(nn.Module):
    """Stochastic depth written as a branch on the module's mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        x = self.conv(x)
        if self.training:
            x = x * torch.rand(1).round()
        return self.head(x.mean((2, 3)))


class Standardised(Deep):
    """A convolution whose weight is computed in every pass."""

    def forward(self, x):
        weight = self.conv.weight - self.conv.weight.mean((1, 2, 3), keepdim=True)
        return self.head(F.conv2d(x, weight).mean((2, 3)))


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
    assert rheostat.adopt(Own(), "mixing", image=(1, 8, 8))(torch.rand(2, 1, 8, 8)).shape[0] == 2


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
            seat = next(m for n, m in model.net.named_modules() if n.endswith(f".{name}"))
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


def test_a_forward_may_branch_on_sizes_and_its_options_keep_their_defaults() -> None:
    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

        def forward(self, x, scale=2.0, *, double=True, **more):
            batch, channels, height, _ = x.shape
            if height > 4 and channels == 1 and double:
                x = self.conv(x)
            assert x.dim() == 4
            parts = [part * scale for part in x.chunk(2, 1)]
            return self.head(torch.cat(parts, 1).reshape(batch, 4, -1).mean(-1))

    own = Sizes().eval()
    model = rheostat.adopt(own, "pgd-at", image=(1, 8, 8))
    for batch in (1, 3):
        x = torch.rand(batch, 1, 8, 8)
        assert torch.allclose(model(x), own(x), atol=1e-6)


def test_linear_layers_are_seats_of_noise_and_masks_but_the_head() -> None:
    for paper, part in (("floats", "Masking"), ("float", "WeightNoise")):
        model = rheostat.adopt(Pixels(), paper, image=(1, 8, 8))
        parts = {
            name.rpartition(".")[2]: [type(t).__name__ for t in layer.transforms]
            for name, layer in model.net.named_modules()
            if isinstance(layer, Dense)
        }
        assert part in parts["hidden"]
        assert parts["last"] == parts["other"] == []
    at_rest, noisy = (model(torch.rand(4, 1, 8, 8), rheostat.Point(robustness=v)) for v in (0.0, 1.0))
    assert not torch.allclose(at_rest, noisy)


def test_exits_follow_named_layers_and_the_candidates_are_listed() -> None:
    x = torch.rand(4, 3, 8, 8)
    default = rheostat.adopt(Plain, "rdi", image=(3, 8, 8))
    assert {"stem.0", "stem.1", "stem", "down", "groups"} & set(default.net.exit_layers) == {
        "stem.0",
        "stem",
        "down",
        "groups",
    }
    assert default.dials["depth"].values == (1.0, 2.0)
    plain = Plain().eval()
    named = rheostat.adopt(plain, "rdi", image=(3, 8, 8), exits=("stem", "down"))
    assert named.dials["depth"].values == (1.0, 2.0, 3.0)
    assert torch.allclose(named(x), plain(x), atol=1e-6)
    assert named(x, rheostat.Point(depth=1)).shape == (4, 10)
    with pytest.raises(ValueError, match="follow a layer 'stems'; did you mean 'stem'"):
        rheostat.adopt(Plain, "rdi", image=(3, 8, 8), exits=("stems",))
    with pytest.raises(ValueError, match="would be the network's own end"):
        rheostat.adopt(Plain, "rdi", image=(3, 8, 8), exits=("last",))
    with pytest.raises(ValueError, match="has no exits; add Exits"):
        rheostat.adopt(Plain, "dual", image=(3, 8, 8), exits=("stem",))
    with pytest.raises(ValueError, match="exits need a network with a feature map"):
        rheostat.adopt(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "rdi", image=(1, 8, 8))


def test_a_network_that_no_width_fits_is_refused_when_it_is_adopted() -> None:
    class Scaled(Pixels):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(8, 1, 1))

        def forward(self, x):
            return self.last((self.norm(self.conv(x)) * self.gamma).mean((2, 3)))

    with pytest.raises(ValueError, match=r"widths do not fit Scaled: at width 0.5, .* linear layers, such as ResNets"):
        rheostat.adopt(Scaled(), "oats", image=(1, 8, 8))


@pytest.mark.parametrize("paper", ["oats", "floats", "smart", "rdi-slim-dual", "line", "lora"])
def test_a_model_is_whole_on_the_device_of_the_module(paper: str, tmp_path, monkeypatch) -> None:
    """Methods make their tensors on the CPU; PyTorch's device without memory stands for a GPU."""
    path = rheostat.adopt(Plain(), paper, image=(3, 8, 8)).save(tmp_path / "m.safetensors")
    elsewhere = torch.device("meta")
    monkeypatch.setattr(adoption, "device_of", lambda module: elsewhere)
    for model in (rheostat.adopt(Plain(), paper, image=(3, 8, 8)), rheostat.load(path, net=Plain)):
        assert {t.device for t in (*model.parameters(), *model.buffers())} == {elsewhere}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("paper", ["oats", "floats", "smart"])
def test_a_module_on_a_gpu_is_adopted_there(paper: str) -> None:
    model = rheostat.adopt(Plain().cuda(), paper, image=(3, 8, 8))
    assert model(torch.rand(2, 3, 8, 8, device="cuda"), Point(robustness=0.5)).is_cuda
