"""Gradients: the back ends against the reference in fp64, the reference against finite differences."""

import pytest
import torch

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention

LAYOUTS = {
    "sliding box": AttentionLayout(7, (21, 37), (6, 9), window=8, radius=3),
    "own window, shared guide": AttentionLayout(
        130, (21, 37), (7, 9), window=8, local="own", image_to_guide="all", guide_to_text=True
    ),
    "blocks": AttentionLayout(7, (21, 37), (7, 9), window=8, radius=3, dilate=(32, 16), text_to_guide=True),
}


def tensors(layout, batch=2, heads=2, dim=16):
    shape = (batch, layout.length, heads, dim)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def error(result, expected):
    return float((result.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("backend", ["sdpa", "explicit"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_equal_those_of_the_reference(name, backend, dtype, tolerance):
    layout = LAYOUTS[name]
    exact = tensors(layout)
    output = hierarchical_local_attention(*exact, layout, backend="reference")
    change = torch.randn_like(output)
    expected = torch.autograd.grad(output, exact, change)
    given = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    output = hierarchical_local_attention(*given, layout, backend=backend)
    for result, wanted in zip(torch.autograd.grad(output, given, change.to(dtype)), expected, strict=True):
        assert result.dtype == dtype
        assert error(result, wanted) < tolerance


def test_gradients_reach_a_cached_guide():
    layout = LAYOUTS["sliding box"]
    rows = layout.text + layout.image
    query, key, value = (x.detach().float().requires_grad_() for x in tensors(layout))
    whole = hierarchical_local_attention(query, key, value, layout)[:, :rows]
    change = torch.randn_like(whole)
    expected = torch.autograd.grad(whole, (key, value), change)
    guide = tuple(x[:, rows:].detach().clone().requires_grad_() for x in (key, value))
    part = hierarchical_local_attention(
        query[:, :rows], key[:, :rows], value[:, :rows], layout, guide=guide, backend="sdpa"
    )
    for result, wanted in zip(torch.autograd.grad(part, guide, change), expected, strict=True):
        assert error(result, wanted[:, rows:]) < 3e-6


@pytest.mark.parametrize("backend", ["reference", "explicit", "auto"])
@pytest.mark.parametrize("local", ["radius", "own"])
def test_gradients_against_finite_differences_in_fp64(local, backend):
    layout = AttentionLayout(2, (3, 4), (1, 2), window=2, radius=1, local=local)
    inputs = tensors(layout, batch=1, heads=1, dim=3)
    assert torch.autograd.gradcheck(
        lambda *x: hierarchical_local_attention(*x, layout, backend=backend), inputs
    )


def test_without_gradients_nothing_is_recorded():
    layout = LAYOUTS["sliding box"]
    query, key, value = (x.detach().float() for x in tensors(layout))
    assert hierarchical_local_attention(query, key, value, layout).grad_fn is None
    key.requires_grad_()
    assert hierarchical_local_attention(query, key, value, layout).grad_fn is not None
    with torch.no_grad():
        assert hierarchical_local_attention(query, key, value, layout).grad_fn is None


def test_the_log_sum_exp_of_a_tiled_back_end_carries_no_gradient():
    layout = LAYOUTS["sliding box"]
    query, key, value = (x.detach().float().requires_grad_() for x in tensors(layout))
    _, lse = hierarchical_local_attention(query, key, value, layout, backend="sdpa", return_lse=True)
    assert not lse.requires_grad
