"""The wiring of the xformers back end, with its operators replaced by plain ones of the same contract."""

import sys
import types

import pytest
import torch

from pipelines.kernels.local_attention import backend_xformers
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import (
    BackendUnavailable,
    explain,
    hierarchical_local_attention,
)

LAYOUTS = {
    "masked tiles": AttentionLayout(7, (21, 37), (6, 9), window=8, radius=3),
    "shared keys": AttentionLayout(300, (24, 24), (6, 6), window=8, image_to_guide="all", guide_to_text=True),
    "own window": AttentionLayout.for_mode("window", 5, (40, 23), (10, 6)),
    "authors' blocks": AttentionLayout.for_mode("block", 128, (32, 48), (8, 12)),
}


def attention(query, key, value, bias, scale):
    scores = torch.einsum("bmhk,bnhk->bhmn", query, key) * scale
    if bias is not None:
        scores = scores + bias
    return torch.einsum("bhmn,bnhk->bmhk", torch.softmax(scores, -1), value), torch.logsumexp(scores, -1)


class Replacement:
    """Records its calls and checks what the real operators ask for."""

    def __init__(self):
        self.calls = []

    def memory_efficient_attention_partial(self, query, key, value, attn_bias=None, p=0.0, scale=None):
        assert attn_bias is None, "partial attention takes no bias tensor"
        assert all(x.is_contiguous() and x.ndim == 4 for x in (query, key, value))
        self.calls.append("partial")
        return attention(query, key, value, None, scale)

    def memory_efficient_attention_forward_requires_grad(
        self, query, key, value, attn_bias=None, p=0.0, scale=None
    ):
        shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
        assert attn_bias.shape == shape and attn_bias.dtype == query.dtype
        assert all(stride % 8 == 0 for stride in attn_bias.stride()[:-1]) and attn_bias.stride(-1) == 1
        self.calls.append("bias")
        output, lse = attention(query, key, value, attn_bias, scale)
        return output, torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=float("inf"))

    def merge_attentions(self, attn_split, lse_split):
        assert [x.ndim for x in (*attn_split, *lse_split)] == [4, 4, 3, 3]
        assert all(
            x.shape[:3] == (y.shape[0], y.shape[2], y.shape[1])
            for x, y in zip(attn_split, lse_split, strict=True)
        )
        self.calls.append("merge")
        total = torch.logsumexp(torch.stack(list(lse_split)), 0)
        weights = [torch.exp(part - total).transpose(1, 2)[..., None] for part in lse_split]
        return sum(x * w for x, w in zip(attn_split, weights, strict=True)), total


@pytest.fixture
def operators(monkeypatch):
    replacement = Replacement()
    package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    package.ops, ops.fmha = ops, replacement
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(backend_xformers, "refusal", lambda layout, query: None)
    return replacement


@pytest.mark.parametrize("name", LAYOUTS)
def test_output_sums_and_gradients_equal_the_reference(name, operators):
    layout = LAYOUTS[name]
    given = [torch.randn(2, layout.length, 2, 16, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    expected, sums = hierarchical_local_attention(*given, layout, backend="reference", return_lse=True)
    output, lse = hierarchical_local_attention(*given, layout, backend="xformers", return_lse=True)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-5)  # merged with fp32 sums
    torch.testing.assert_close(lse.double(), sums, atol=1e-5, rtol=1e-5)
    change = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, given, change)
    for found, gradient in zip(torch.autograd.grad(output, given, change), wanted, strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-4)


def test_masked_tiles_take_the_bias_and_shared_keys_are_merged(operators):
    def calls(name):
        operators.calls.clear()
        tensors = [torch.randn(1, LAYOUTS[name].length, 1, 8) for _ in range(3)]
        hierarchical_local_attention(*tensors, LAYOUTS[name], backend="xformers")
        return set(operators.calls)

    assert calls("masked tiles") == {"partial", "bias"}
    assert calls("shared keys") == {"partial", "bias", "merge"}
    assert calls("authors' blocks") == {"partial"}


def test_the_probe_runs_the_operators_and_repeats_what_they_say(monkeypatch):
    def broken(*arguments, **options):
        raise NotImplementedError("No operator found\nwith these inputs")

    monkeypatch.setattr(backend_xformers, "load_operators", lambda: backend_xformers.Operators(*[broken] * 3))
    found = backend_xformers._probe.__wrapped__("cpu", torch.float32, 8)
    assert found == "its operators do not run here: No operator found"


def test_the_probe_passes_where_the_operators_work(operators):
    assert backend_xformers._probe.__wrapped__("cpu", torch.float32, 8) is None


def test_on_a_cpu_it_is_refused_with_a_reason(monkeypatch):
    layout, query = LAYOUTS["own window"], torch.zeros(1, 4, 1, 32)
    reason = explain(layout, query).refused["xformers"]
    assert "not installed" in reason or "CUDA device" in reason
    with pytest.raises(BackendUnavailable, match="'xformers' cannot run"):
        tensors = [torch.zeros(1, layout.length, 1, 32)] * 3
        hierarchical_local_attention(*tensors, layout, backend="xformers")
    monkeypatch.setattr(backend_xformers.importlib.util, "find_spec", lambda name: object())
    assert "need a CUDA device, got cpu" in backend_xformers.refusal(layout, query)
