"""TENOR's tables and single attention layers against the authors' modules."""

import re

import pytest
import torch

from pipelines.compass.tenor import install_tenor, remove_tenor
from pipelines.compass.tenor_table import tenor_table
from tests.parity.compass.recorded import recorded

DTYPES = {"values": torch.float32, "values_f16": torch.float16, "values_bf16": torch.bfloat16}


@pytest.mark.parametrize("case", recorded("tenor_pe_attn", "safetensors"))
def test_tables(case):
    tensors = case.tensors()
    names = (re.fullmatch(r"pe\.c(\d+)\.L(\d+)\.rows", key) for key in tensors)
    found = [match for match in names if match]
    assert found
    for match in found:
        channels, length = map(int, match.groups())
        rows = tensors[match.string]
        for kind, dtype in DTYPES.items():
            expected = tensors.get(match.string.replace("rows", kind))
            if expected is None:
                continue
            ours = tenor_table(length, channels, dtype)
            assert ours.shape == (length, channels) and ours.dtype == dtype
            if dtype == torch.float32:
                torch.testing.assert_close(ours[rows], expected, rtol=0, atol=1e-6)
            else:  # rounded after the sines were taken: one step apart where those differ in the last bit
                step = torch.finfo(dtype).eps
                torch.testing.assert_close(ours[rows], expected, rtol=step, atol=step / 16)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cross", "self"])
@pytest.mark.parametrize("case", recorded("tenor_pe_attn", "safetensors"))
def test_single_layers(case, kind):
    from diffusers.models.attention_processor import Attention

    prefix, tensors = f"attn_{kind}.", case.tensors()
    state = {
        key.removeprefix(prefix + "state."): value
        for key, value in tensors.items()
        if key.startswith(prefix + "state.")
    }
    width, text = state["to_q.weight"].shape[1], state["to_k.weight"].shape[1]
    layer = None
    for heads in (1, 2, 3, 4, 6, 8):  # the number of heads is not recorded
        if state["to_q.weight"].shape[0] % heads:
            continue
        candidate = Attention(
            query_dim=width,
            cross_attention_dim=text if kind == "cross" else None,
            heads=heads,
            dim_head=state["to_q.weight"].shape[0] // heads,
        )
        candidate.load_state_dict(state)
        plain = candidate(tensors[prefix + "hidden"], tensors.get(prefix + "context"))
        if torch.allclose(plain, tensors[prefix + "out_plain"], atol=1e-5):
            layer = candidate
            break
    assert layer is not None
    inputs = (tensors[prefix + "hidden"], tensors.get(prefix + "context"))
    if kind == "self":
        with pytest.raises(ValueError, match="no place"):
            install_tenor(layer)
        assert torch.equal(tensors[prefix + "out_tenor"], tensors[prefix + "out_plain"])
        return
    install_tenor(layer, "continuous")
    torch.testing.assert_close(layer(*inputs), tensors[prefix + "out_tenor"], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(tensors[prefix + "out_tenor"], tensors[prefix + "out_plain"], atol=1e-3)
    remove_tenor(layer)
    assert torch.equal(layer(*inputs), plain)
