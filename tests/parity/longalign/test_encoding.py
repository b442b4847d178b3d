"""Whole conditioning and the adapter against the authors' functions on tiny random models."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.segment_conditioning import SegmentConditioning
from pipelines.longalign.text_adapter import TextAdapter
from pipelines.longalign.text_encoders import CachedTextEncoder
from pipelines.longalign.tokens import TokenReader
from tests.parity.longalign.vectors import RecordedTokenizer, every

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def clip_model(case):
    model = CLIPTextModel(CLIPTextConfig(**case.record["clip_config"])).eval()
    prefix = "" if any(name.startswith("text_model.") for name in model.state_dict()) else "text_model."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in case.below("clip.").items()}, strict=False)
    return model


def t5_model(case):
    # recorded with eager attention; these random weights amplify the rounding of another order to 6e-5
    config = T5Config(**case.record["t5_config"], attn_implementation="eager")
    model = T5EncoderModel(config).eval()
    assert model.config._attn_implementation == "eager"
    missing, unexpected = model.load_state_dict(case.below("t5."), strict=False)
    assert not unexpected and set(missing) <= {"encoder.embed_tokens.weight"}
    return model


def unpadded(ids, mask):
    """Lists of ids without padding."""
    return [row[: int(own.sum())].tolist() for row, own in zip(ids, mask, strict=True)]


def recorded_ids(case, config):
    ids = unpadded(case.tensors["out.input_ids_clip"], case.tensors["out.attention_mask_clip"])
    marks = (config["bos_token_id"], config["eos_token_id"])
    return RecordedTokenizer([row[1:-1] for row in ids], marks, [0], config["pad_token_id"])


def conditioning(case, tokenizer):
    record, length = case.record, case.record["token_length"]
    settings = PromptSettings(mode="official", overflow="truncate", rows=length, strip=False)
    clip = CachedTextEncoder(clip_model(case), TokenReader(tokenizer, 77))
    if record["t5_config"] is None:
        return SegmentConditioning([clip], settings)
    texts = unpadded(case.tensors["out.input_ids_t5"], case.tensors["out.attention_mask_t5"])
    end = record["t5_config"].get("eos_token_id", 1)
    reader = TokenReader(RecordedTokenizer([row[:-1] for row in texts], (end,), [0], 0), length)
    adapter = TextAdapter(**record["adapter_config"]).eval()
    adapter.load_state_dict(case.below("adapter."))
    return SegmentConditioning(
        [clip], settings, t5=CachedTextEncoder(t5_model(case), reader), adapter=adapter
    )


def check(case, tokenizer):
    tensors, built = case.tensors, conditioning(case, tokenizer)
    blocks = built.encode_blocks(case.record["prompts"])
    clip = built.encoders[0]
    runs = [segment.runs[0] for plans in blocks.plans for segment in plans[0].segments]
    ids = unpadded(tensors["out.input_ids_clip"], tensors["out.attention_mask_clip"])
    counts = torch.bincount(tensors["out.clip_sentence_index"], minlength=len(blocks.plans)).tolist()
    if all(not plans[0].cuts for plans in blocks.plans):
        assert [list(clip.reader.wrap(run)) for run in runs] == ids
        assert [len(plans[0].segments) for plans in blocks.plans] == counts
    states = clip.encode([tuple(row) for row in ids])
    for own, recorded in zip(states, tensors["out.clip_per_sentence"], strict=True):
        torch.testing.assert_close(own.hidden, recorded[: len(own.hidden)], **CLOSE)
    torch.testing.assert_close(clip.padding()[None], tensors["out.pad_embed"], **CLOSE)
    torch.testing.assert_close(blocks.clip, tensors["out.clip_concat"], **CLOSE)
    if blocks.t5 is not None:
        torch.testing.assert_close(blocks.t5, tensors["out.t5_hidden"], **CLOSE)
        torch.testing.assert_close(built.adapter(blocks.t5), tensors["out.t5_adapted"], **CLOSE)
        final = built.combine(blocks.clip, blocks.t5)
        torch.testing.assert_close(final, tensors["out.final"], **CLOSE)


@every("b_encode_")
@torch.no_grad()
def test_conditioning(case):
    check(case, recorded_ids(case, case.record["clip_config"]))


@every("b_encode_")
@torch.no_grad()
def test_conditioning_from_texts(case, mini_tokenizer):
    check(case, mini_tokenizer)


@every("c_adapter_")
def test_adapter(case):
    if "params" in case.record:  # shapes of the published size, without values
        with torch.device("meta"):
            adapter = TextAdapter(**{k: v for k, v in case.record["config_json"].items() if k[0] != "_"})
        assert {k: list(v.shape) for k, v in adapter.state_dict().items()} == case.record["keys"]
        assert sum(p.numel() for p in adapter.parameters()) == case.record["params"]
        assert type(adapter).__name__ == case.record["config_json"]["_class_name"]
        return
    adapter = TextAdapter(**case.record["config"]).eval()
    adapter.load_state_dict(case.below("adapter."))
    tensors = case.tensors
    x = tensors["in.x"].requires_grad_()
    y = adapter(x)
    y.backward(tensors["in.grad_y"])
    close(y, tensors["out.y"])
    close(x.grad, tensors["out.grad_x"])
    recorded = case.below("grad.")
    assert recorded.keys() == dict(adapter.named_parameters()).keys()
    for name, parameter in adapter.named_parameters():
        close(parameter.grad, recorded[name])


def close(ours, recorded):
    """Within 1e-5 of the largest value."""
    error = float((ours.detach() - recorded).abs().max())
    assert error <= 1e-5 * max(1e-6, float(recorded.abs().max()))


def test_a_tokenizer_without_offsets_is_refused():
    tokenizer = RecordedTokenizer([], (1,), [0], 0)
    tokenizer.is_fast = False
    with pytest.raises(ValueError, match="fast tokenizer"):
        TokenReader(tokenizer, 77)
