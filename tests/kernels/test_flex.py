"""Flex attention, eagerly on small grids: numbers, gradients, and the reasons for refusing larger ones."""

import pytest
import torch

from pipelines.kernels.local_attention import backend_flex
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import BackendUnavailable, hierarchical_local_attention

LAYOUTS = {
    "exact": AttentionLayout.for_mode("exact", 7, (17, 19), (4, 6)),
    "block": AttentionLayout.for_mode("block", 128, (16, 16), (4, 4)),
    "window": AttentionLayout.for_mode("window", 0, (18, 21), (6, 7)),
    "no guide": AttentionLayout(3, (11, 13), window=4, radius=2, order="raster"),
}


def relative(result, expected):
    result, expected = result.detach().double(), expected.detach().double()
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", LAYOUTS)
def test_output_sums_and_gradients_equal_the_reference(name):
    layout = LAYOUTS[name]
    exact = [torch.randn(2, layout.length, 2, 16, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    expected, sums = hierarchical_local_attention(*exact, layout, backend="reference", return_lse=True)
    change = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, exact, change)
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.bfloat16, 2e-2)):
        given = [x.detach().to(dtype).requires_grad_() for x in exact]
        output, lse = hierarchical_local_attention(*given, layout, backend="flex", return_lse=True)
        assert output.dtype == dtype and relative(output, expected) < tolerance
        assert float((lse - sums).abs().max()) < (1e-5 if dtype == torch.float32 else 5e-2)
        for found, gradient in zip(torch.autograd.grad(output, given, change.to(dtype)), wanted, strict=True):
            assert relative(found, gradient) < tolerance


def test_a_cached_guide_gives_the_same_rows():
    layout = LAYOUTS["exact"]
    query, key, value = (torch.randn(1, layout.length, 2, 16) for _ in range(3))
    rows = layout.text + layout.image
    whole = hierarchical_local_attention(query, key, value, layout, backend="reference")
    part = hierarchical_local_attention(query[:, :rows], key, value, layout, backend="flex")
    torch.testing.assert_close(part, whole[:, :rows], atol=1e-5, rtol=1e-5)


def test_on_a_cpu_large_sequences_are_refused():
    layout = AttentionLayout(0, (128, 128))
    query = torch.empty(1, layout.length, 4, 8)
    with pytest.raises(BackendUnavailable, match="'flex' cannot run: on a CPU it forms all scores"):
        hierarchical_local_attention(query, query, query, layout, backend="flex")
    assert "float64" in backend_flex.refusal(layout, query.double())
    assert "got meta" in backend_flex.refusal(layout, query.to("meta"))


def test_the_tracer_is_switched_back_on():
    from torch.nn.attention import flex_attention

    with backend_flex._uncompiled():
        assert flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG is True
    assert flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG is False
