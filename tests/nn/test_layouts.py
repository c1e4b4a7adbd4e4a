"""Operations on feature maps: the usual results, with gradients in the layout of the features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from rheostat.nn.layouts import pooled, strided

LAYOUTS = [torch.contiguous_format, torch.channels_last]
PAIRS: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
    (pooled, lambda x: x.mean((2, 3))),
    (lambda x: strided(x, (2, 2)), lambda x: x[:, :, ::2, ::2]),
    (lambda x: strided(x, (1, 3)), lambda x: x[:, :, :, ::3]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 16, 7, 7), (3, 20, 5, 4), (1, 8, 4, 4), (2, 5, 1, 1), (0, 4, 3, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pair", PAIRS)
def test_results_and_gradients_are_the_usual_ones_bit_for_bit(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    layout: torch.memory_format,
    pair: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout).requires_grad_()
    mine, right = (f(x) for f in pair)
    assert torch.equal(mine, right)
    slope = torch.randn(right.shape).to(dtype)
    (found,), (expected,) = (torch.autograd.grad(out, x, slope) for out in (mine, right))
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(pair[0](x), right)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", [pair[0] for pair in PAIRS])
def test_gradients_have_the_layout_of_the_features(
    layout: torch.memory_format, operation: Callable[[Tensor], Tensor]
) -> None:
    x = torch.randn(4, 16, 7, 7).contiguous(memory_format=layout).requires_grad_()
    (found,) = torch.autograd.grad(operation(x).sum(), x)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("x", [torch.randn(4, 1, 6, 7, 7), torch.randn(4, 1, 7, 7, 6).permute(0, 1, 4, 2, 3)])
@pytest.mark.parametrize("operation", [pair[0] for pair in PAIRS])
def test_gradients_of_single_images_can_be_vectorised(x: Tensor, operation: Callable[[Tensor], Tensor]) -> None:
    weight = torch.randn(6, 1, 1, requires_grad=True)

    def loss(factor: Tensor, one: Tensor) -> Tensor:
        return operation(one * factor).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    for row, one in zip(found, x, strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(loss(weight, one), weight)[0])


@pytest.mark.parametrize("operation", [pair[0] for pair in PAIRS])
def test_they_can_be_traced(operation: Callable[[Tensor], Tensor]) -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return operation(x)

    x = torch.randn(4, 16, 7, 7).contiguous(memory_format=torch.channels_last)
    assert torch.equal(fx.symbolic_trace(Root())(x), operation(x))
