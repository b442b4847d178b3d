"""Long-CLIP: stretching, the text tower after conversion, main components, against the authors' code."""

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from pipelines.longalign.long_clip import (
    convert_long_clip,
    effective_positions,
    long_clip_config,
    principal_components,
    stretch_positions,
)
from tests.parity.longalign.vectors import every

EXACT = {"rtol": 1e-6, "atol": 1e-6}


@every("e_stretch_")
def test_stretching(case):
    tensors, options = case.tensors, {}
    if "keep" in case.record:
        options = {"keep": case.record["keep"], "ratio": case.record["ratio"]}
    table = tensors["in.pe"]
    stretched = stretch_positions(table, **options)
    torch.testing.assert_close(stretched, tensors.get("out.pe", tensors.get("out.pe_kps_fp32")), **EXACT)
    if "out_len" in case.record:
        assert len(stretched) == case.record["out_len"]
    if "out.pe_load_from_clip" in tensors:  # the published weights were stretched in half precision
        half = stretch_positions(table.half(), **options).float()
        recorded = tensors["out.pe_load_from_clip"]
        torch.testing.assert_close(half, recorded, **EXACT)
        error = float((stretched - recorded).abs().max())
        assert abs(error - case.record["max_abs_difference"]) < 1e-6


@every("e_longclip_text")
@torch.no_grad()
def test_text_tower(case):
    tensors, recorded = case.tensors, case.record["text_config"]
    checkpoint = case.below("ckpt.")
    special = {name: recorded[name] for name in ("bos_token_id", "eos_token_id")}
    config = long_clip_config(checkpoint, **special)
    assert {name: config[name] for name in recorded} == recorded
    model = CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()
    missing, unexpected = model.load_state_dict(convert_long_clip(checkpoint), strict=False)
    assert not missing and not unexpected
    output = model(input_ids=tensors["in.input_ids"], output_hidden_states=True)
    torch.testing.assert_close(output.last_hidden_state, tensors["out.hidden_full"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.text_embeds, tensors["out.pooled"], rtol=1e-4, atol=1e-4)
    penultimate = output.hidden_states[-2]
    torch.testing.assert_close(penultimate, tensors["derived.penultimate_no_ln"], rtol=1e-4, atol=1e-4)


@every("e_longclip_text")
def test_both_position_tables_are_used(case):
    first, second = (case.below("ckpt.")[f"positional_embedding{end}"] for end in ("", "_res"))
    table = effective_positions(first, second)
    assert torch.equal(table[:20], first[:20]) and torch.equal(table[20:], second[20:])


@every("e_pca")
def test_main_components(case):
    for name, recorded in case.below("out.pca").items():
        ours = principal_components(case.tensors["in.feats"], int(name))
        torch.testing.assert_close(ours, recorded, rtol=1e-4, atol=1e-5)
