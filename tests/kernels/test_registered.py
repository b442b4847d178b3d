"""The op as a PyTorch operator: schemas, fake kernels, gradients, and compilation into one graph."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from pipelines.kernels.local_attention.layout import AttentionLayout, layout_of
from pipelines.kernels.local_attention.op import BackendUnavailable, hierarchical_local_attention
from pipelines.kernels.local_attention.registered import local_attention, local_attention_backward

LAYOUT = AttentionLayout(3, (9, 7), (3, 2), window=4, radius=2)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tensors(layout=LAYOUT, dtype=torch.float32, requires_grad=False):
    shape = (2, layout.length, 2, 8)
    return [torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for _ in range(3)]


def attend(query, key, value, backend="auto"):
    return hierarchical_local_attention(query, key, value, LAYOUT, backend=backend)


def passed(checks):
    """What `opcheck` answers when all is well; it raises otherwise."""
    return dict.fromkeys(checks, "SUCCESS")


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("sdpa", torch.float32), ("explicit", torch.bfloat16), ("reference", torch.float64)],
)
def test_operator_contracts_hold(backend, dtype):
    """PyTorch's own check: no aliases, no mutation, fake results like real ones, gradients registered."""
    arguments = (*tensors(dtype=dtype, requires_grad=True), LAYOUT.code, backend, 0.3, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    assert torch.library.opcheck(local_attention, arguments, test_utils=checks) == passed(checks)


def test_operator_contracts_hold_without_the_sums_and_for_the_gradient():
    query, key, value = tensors()
    checks = ("test_schema", "test_faketensor")
    strided = key.transpose(1, 2).contiguous().transpose(1, 2)
    forward = (query, strided, value, LAYOUT.code, "sdpa", 0.3, False)
    assert torch.library.opcheck(local_attention, forward, test_utils=checks) == passed(checks)
    output, lse = local_attention(query, key, value, LAYOUT.code, "sdpa", 0.3, True)
    backward = (torch.ones_like(output), query, key, value, output, lse, LAYOUT.code, 0.3)
    assert torch.library.opcheck(local_attention_backward, backward, test_utils=checks) == passed(checks)


@pytest.mark.parametrize("backend", ["auto", "reference", "explicit"])
def test_one_graph_with_the_same_numbers_and_gradients(backend):
    plain = tensors(requires_grad=True)
    compiled = [x.detach().clone().requires_grad_() for x in plain]
    graph = torch.compile(attend, backend="aot_eager", fullgraph=True)
    expected, result = attend(*plain, backend), graph(*compiled, backend)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    change = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, plain, change)
    for found, gradient in zip(torch.autograd.grad(result, compiled, change), wanted, strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-4)


def test_steps_of_one_layout_compile_once_and_another_layout_again():
    counter = CompileCounter()

    @torch.compile(backend=counter, fullgraph=True)
    def step(query, key, value, layout):
        output, lse = hierarchical_local_attention(query, key, value, layout, return_lse=True)
        return output * 2, lse

    for _ in range(3):
        query, key, value = tensors()
        output, lse = step(query, key, value, LAYOUT)
    assert counter.frame_count == 1
    expected, expected_lse = hierarchical_local_attention(query, key, value, LAYOUT, return_lse=True)
    assert torch.equal(output, expected * 2) and torch.equal(lse, expected_lse)
    wider = replace(LAYOUT, radius=3)
    output, _ = step(query, key, value, wider)
    assert counter.frame_count == 2
    assert torch.equal(output, hierarchical_local_attention(query, key, value, wider) * 2)


def test_a_cached_guide_compiles_too():
    query, key, value = tensors()
    rows = LAYOUT.text + LAYOUT.image

    @torch.compile(backend="eager", fullgraph=True)
    def step(query, key, value, guide):
        return hierarchical_local_attention(query, key, value, LAYOUT, guide=guide)

    part = step(query[:, :rows], key[:, :rows], value[:, :rows], (key[:, rows:], value[:, rows:]))
    torch.testing.assert_close(part, attend(query, key, value)[:, :rows], atol=1e-6, rtol=1e-5)


def test_a_back_end_that_cannot_run_says_so_in_a_compiled_call_as_well():
    graph = torch.compile(attend, backend="eager", fullgraph=True)
    with pytest.raises(BackendUnavailable, match="'triton' cannot run"):
        graph(*tensors(), "triton")


def test_shapes_are_known_without_computing():
    query, key, value = (x.to("meta") for x in tensors())
    output, lse = hierarchical_local_attention(query, key, value, LAYOUT, return_lse=True)
    assert output.device.type == "meta" and output.shape == query.shape
    assert lse.shape == (2, 2, LAYOUT.length) and lse.dtype == torch.float32


def test_a_layout_survives_its_code():
    for layout in (
        LAYOUT,
        AttentionLayout.for_mode("block", 7, (63, 97), (16, 24)),
        replace(LAYOUT, guide_grid=None),
    ):
        assert layout_of(layout.code) == layout
    assert replace(LAYOUT, text=9).code != LAYOUT.code


def test_gradients_need_the_sums():
    with pytest.raises(RuntimeError, match="with_lse=True"):
        local_attention(*tensors(requires_grad=True), LAYOUT.code, "sdpa", 0.3, False)
