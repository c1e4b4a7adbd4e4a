"""Batch norms of half-precision features: fp32 inside, no copy of the features in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rheostat.methods import compose
from rheostat.models.tunable import Tunable
from rheostat.nets import resnet
from rheostat.nn.affine import affine_map, row_norm
from rheostat.nn.layers import Conv, normed, seats
from rheostat.nn.norms import Norm
from rheostat.points.phase import Phase
from rheostat.points.resolved import Resolved
from rheostat.runtime.precision import low_precision

CHANNELS = 6


def seat() -> Norm:
    norm = Norm(CHANNELS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in norm.source.state_dict().values():
            tensor.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
    return norm


def features() -> Tensor:
    x = 3 + 2 * torch.randn(8, CHANNELS, 9, 9, generator=torch.Generator().manual_seed(1))
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


def traced(norm: Norm, x: Tensor, phase: Phase) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Output, gradients and running statistics of one pass, and the tensors that its graph keeps."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = norm(x, Resolved(phase=phase))
    slope = torch.linspace(-1, 1, out.numel()).reshape(out.shape).bfloat16()
    found = torch.autograd.grad(out, (x, *norm.parameters()), slope.to(out.dtype))
    names = ("input", *(name for name, _ in norm.named_parameters()))
    return {"output": out.detach(), **dict(zip(names, found, strict=True)), **dict(norm.named_buffers())}, kept


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.ATTACK, Phase.EVAL])
def test_half_features_are_normalised_in_fp32(phase: Phase) -> None:
    half, _ = traced(seat(), features(), phase)
    wide, _ = traced(seat(), features().float(), phase)
    assert half["output"].dtype == half["input"].dtype == torch.bfloat16
    for name, expected in wide.items():
        # Results are rounded to bf16, 8 bits.
        scale = float(expected.abs().max())
        torch.testing.assert_close(half[name].float(), expected, atol=2**-7 * scale, rtol=0)
    for name, _ in seat().named_buffers():
        torch.testing.assert_close(half[name], wide[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.ATTACK])
def test_half_features_are_not_copied_in_fp32(phase: Phase) -> None:
    x = features()
    _, kept = traced(seat(), x, phase)
    assert [t.dtype for t in kept if t.numel() >= x.numel() and t.dtype != torch.bfloat16] == []


@pytest.mark.parametrize("kind", ["norm", "affine map"])
@pytest.mark.parametrize("channels", [4, 6, 16, 40])
def test_rows_with_their_own_affine_maps_are_those_of_fp32(channels: int, kind: str) -> None:
    """At 4 and 16 channels neighbouring pixels are taken together; 6 do not divide a vector register."""
    generator = torch.Generator().manual_seed(2)
    x = (1 + 2 * torch.randn(8, channels, 8, 8, generator=generator)).bfloat16()
    tables = torch.rand(2, 8, channels, generator=generator)
    slope = torch.linspace(-1, 1, x.numel()).reshape(x.shape).bfloat16()
    found = []
    for given in (x, x.float()):
        given = given.contiguous(memory_format=torch.channels_last).requires_grad_()
        scale, shift = (t.clone().requires_grad_() for t in tables)
        running = torch.zeros(channels), torch.ones(channels)
        out = row_norm(given, scale, shift, *running, 0.1, 1e-5) if kind == "norm" else affine_map(given, scale, shift)
        assert out.dtype == given.dtype
        assert out.is_contiguous(memory_format=torch.channels_last)
        out = torch.relu_(out)
        found.append([out.detach(), *torch.autograd.grad(out, (given, scale, shift), slope.to(out.dtype)), *running])
    for half, wide in zip(*found, strict=True):
        # A value near 0 can be on the other side of the ReLU: compare norms.
        assert (half.float() - wide).norm() <= 0.06 * wide.norm()


@pytest.mark.parametrize("channels", [4, 40])
def test_no_rows_are_no_error(channels: int) -> None:
    x = torch.zeros(0, channels, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    assert affine_map(x, torch.zeros(0, channels), torch.zeros(0, channels)).shape == x.shape


def test_an_exact_convolution_computes_in_fp32_and_rounds_its_output() -> None:
    torch.manual_seed(0)
    conv = Conv(3, CHANNELS, padding=1, exact=True)
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    expected = conv(x, Resolved())
    slope = torch.randn_like(expected).bfloat16()
    wide = torch.autograd.grad(expected, (x, conv.weight), slope.float())
    with low_precision(torch.device("cpu")):
        out = conv(x, Resolved())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.bfloat16())
    for mine, right in zip(torch.autograd.grad(out, (x, conv.weight), slope), wide, strict=True):
        torch.testing.assert_close(mine, right)


def test_an_exact_convolution_with_its_norm_merged_rounds_its_output() -> None:
    """As in the passes of an attack, which share their weights."""
    conv, norm = Conv(3, CHANNELS, padding=1, exact=True), seat()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = norm(conv(x, Resolved()), Resolved())
        with low_precision(torch.device("cpu")):
            out = normed(conv, norm, x, Resolved(phase=Phase.ATTACK, memo={}))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0, rtol=2**-8)


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.ATTACK])
def test_every_norm_of_a_network_reads_half_precision_in_bf16(phase: Phase) -> None:
    """Also the first one, behind the convolution that is computed in fp32."""
    model = Tunable(resnet(depth=8, base_width=8), compose("oat"))
    seen: list[torch.dtype] = []
    for norm in seats(model.net, Norm):
        norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    x = torch.rand(2, 3, 32, 32)
    with low_precision(torch.device("cpu")):
        output = model.read(x, model.resolve(model.complete(None), x, phase=phase))
    assert output.logits.isfinite().all()
    assert len(seen) == 9
    assert set(seen) == {torch.bfloat16}
