"""Networks are built for any image, run only as far as they are asked, and say what they cannot be."""

from __future__ import annotations

import pytest
import torch

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.nets import NETS, Net, build


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("shape", [(1, 17, 17), (3, 16, 20), (3, 64, 64)])
def test_any_size_channels_and_classes(name: str, shape: tuple[int, int, int]) -> None:
    options: dict[str, object] = {"classes": 7, "image": shape}
    if name != "mobilenet_v2":
        options["base_width"] = 4
    model = Tunable(build({"name": name, **options}), compose("pgd-at"))
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_a_net_too_large_for_an_image_names_itself_and_the_least_size() -> None:
    for name, options, least in (
        ("small_cnn", {"padded": False}, "16×16"),
        ("resnet", {}, "8×8"),
        ("wide_resnet", {}, "8×8"),
        ("mobilenet_v2", {}, "8×8"),
    ):
        with pytest.raises(ValueError, match=f"{name} needs images of at least {least}"):
            build({"name": name, "image": (1, 7, 15), **options})
    with pytest.raises(ValueError, match="1 or 3"):
        build({"name": "resnet", "image": (2, 32, 32)})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "resnt"}, "did you mean 'resnet'"),
        ({"name": "resnet", "depht": 20}, "did you mean 'depth'"),
        ({"name": "resnet", "activation": "silo"}, "resnet: no activation 'silo'; did you mean 'silu'"),
        ({"name": "resnet", "depth": 21}, "allowed: 8, 14, 18, 20"),
        ({"name": "wide_resnet", "depth": 17}, "6n"),
        ({"name": "resnet", "base_width": -1}, "base_width"),
        ({"name": "resnet", "base_width": 0}, "resnet: base_width must be positive, given 0"),
        ({"name": "resnet", "depth": 18, "base_width": 0}, "base_width must be positive"),
        ({"name": "resnet", "classes": 0}, "classes must be positive"),
        ({"name": "wide_resnet", "widen": 0}, "wide_resnet: widen must be positive"),
        ({"name": "small_cnn", "base_width": 0}, "small_cnn: base_width must be positive"),
        ({"name": "mobilenet_v2", "width": 0.0}, "mobilenet_v2: width must be positive"),
    ],
)
def test_an_impossible_net_is_named(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec)


def test_features_run_only_as_far_as_they_are_taken() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("pgd-at"))
    assert isinstance(model.net, Net)
    x = torch.rand(2, 3, 32, 32)
    at = model.resolve(None, x)
    calls: list[int] = []
    for i, block in enumerate(model.net.blocks):
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
    features = model.net.features(x, at)
    next(features)
    next(features)
    assert calls == [0, 1]


def test_a_smooth_activation_is_in_every_layer_and_head() -> None:
    """A ReLU left in one layer would make the network less smooth, and nothing else would show it."""
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=4, activation="silu"), compose("rdi", heads="paper")).eval()
    assert model.net.spec["activation"] == "silu"
    kinds = [f for module in model.modules() if (f := getattr(module, "activation", None)) is not None]
    assert len(kinds) >= 5
    assert set(kinds) == {torch.nn.functional.silu}
