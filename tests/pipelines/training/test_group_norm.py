"""The quick group norm is `nn.GroupNorm`, forward and backward."""

import copy

import pytest
import torch
from torch import nn

from pipelines.training.group_norm import QuickGroupNorm, use_quick_group_norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "groups"), [((2, 8, 5, 7), 4), ((1, 6, 4, 4), 6), ((3, 4, 1, 9), 1)])
def test_values_and_gradients_are_those_of_the_stock_norm(shape, groups, layout):
    generator = torch.Generator().manual_seed(0)
    stock = nn.GroupNorm(groups, shape[1])
    with torch.no_grad():
        stock.weight.copy_(torch.randn(shape[1], generator=generator))
        stock.bias.copy_(torch.randn(shape[1], generator=generator))
    quick = copy.deepcopy(stock)
    use_quick_group_norm(nn.Sequential(quick))
    assert isinstance(quick, QuickGroupNorm)
    x = (3 * torch.randn(shape, generator=generator) + 1).to(memory_format=layout)
    upstream = torch.randn(shape, generator=generator).to(memory_format=layout)
    results = []
    for norm in (stock, quick):
        own = x.clone(memory_format=torch.preserve_format).requires_grad_(True)
        y = norm(own)
        y.backward(upstream)
        results.append((y, own.grad, norm.weight.grad, norm.bias.grad))
    for expected, given in zip(*results, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_low_precision_gradients_stay_close():
    x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    stock, quick = nn.GroupNorm(4, 8), nn.GroupNorm(4, 8).bfloat16()
    use_quick_group_norm(nn.Sequential(quick))
    exact, rounded = x.clone().requires_grad_(True), x.bfloat16().requires_grad_(True)
    stock(exact).square().sum().backward()
    quick(rounded).square().sum().backward()
    assert (rounded.grad.float() - exact.grad).abs().max() < 0.1
    torch.testing.assert_close(quick.weight.grad.float(), stock.weight.grad, rtol=2e-2, atol=2.0)


def test_only_group_norms_change_and_names_stay():
    class Special(nn.GroupNorm):
        pass

    model = nn.Sequential(nn.GroupNorm(2, 4), nn.BatchNorm2d(4), Special(2, 4))
    names = list(model.state_dict())
    use_quick_group_norm(model)
    assert [type(module).__name__ for module in model] == ["QuickGroupNorm", "BatchNorm2d", "Special"]
    assert list(model.state_dict()) == names
