"""The GPU back ends natively: outputs, log-sum-exps and gradients against the reference in fp64."""

import pytest
import torch

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import choose, explain, hierarchical_local_attention
from pipelines.kernels.selftest import run_selftest

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

TOLERANCES = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYOUTS = {
    "exact": AttentionLayout.for_mode("exact", 7, (63, 97), (16, 24)),
    "block": AttentionLayout.for_mode("block", 512, (32, 48), (8, 12)),
    "window": AttentionLayout.for_mode("window", 0, (45, 40), (9, 10)),
    "no guide": AttentionLayout(0, (33, 21), radius=5),
}


def relative(result, expected):
    result, expected = result.double().cpu(), expected.double().cpu()
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("backend", ["triton", "flex", "xformers", "explicit"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_forward_and_gradient(name, dtype, backend):
    layout = LAYOUTS[name]
    shape = (2, layout.length, 2, 64)
    given = [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in given]
    output, lse = hierarchical_local_attention(*given, layout, backend=backend, return_lse=True)
    expected, sums = hierarchical_local_attention(*exact, layout, backend="reference", return_lse=True)
    assert relative(output, expected) < 2 * TOLERANCES[dtype]
    assert float((lse - sums).abs().max()) < 1e-2
    change = torch.randn_like(expected)
    found = torch.autograd.grad(output, given, change.to(dtype))
    for result, wanted in zip(found, torch.autograd.grad(expected, exact, change), strict=True):
        assert relative(result, wanted) < 4 * TOLERANCES[dtype]


@pytest.mark.parametrize("dim", [24, 48, 64, 128])
def test_every_form_of_the_triton_kernel(dim):
    layout = AttentionLayout(130, (40, 40), (10, 10))
    tensors = [torch.randn(1, layout.length, 3, dim, device="cuda").bfloat16() for _ in range(3)]
    expected = hierarchical_local_attention(*(x.double() for x in tensors), layout, backend="reference")
    assert relative(hierarchical_local_attention(*tensors, layout, backend="triton"), expected) < 8e-3


def test_the_automatic_choice_and_the_self_test():
    query = torch.empty(1, 4, 1, 64, device="cuda", dtype=torch.bfloat16)
    assert choose(LAYOUTS["exact"], query, "auto").backend == "triton"
    assert "CPU tensor" in explain(LAYOUTS["exact"], query).refused["sdpa"]
    for result in run_selftest("cuda", "bfloat16"):
        assert result.status != "failed", result
