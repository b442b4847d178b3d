"""What is encoded, how often, and that memory, batches and weights change nothing they shouldn't."""

import pytest
import torch

from pipelines.longalign.conditioning import LongPromptEncoder
from pipelines.longalign.encoding_time import measure_encoding
from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.segment_conditioning import SegmentConditioning
from pipelines.longalign.text_encoders import CachedTextEncoder
from pipelines.longalign.tokens import TokenReader
from pipelines.storybook.text import build_clip_tokenizer, build_t5_tokenizer
from tests.pipelines.longalign.conftest import build_clip_text, build_t5

COLOURS = ("red", "blue", "green", "white", "black")
KINDS = ("cat", "house", "boat", "tree")
TWENTY = [f"There is a {colour} {kind} in a meadow." for colour in COLOURS for kind in KINDS]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return CachedTextEncoder(build_clip_text(), TokenReader(build_clip_tokenizer(), 77))


@pytest.fixture
def conditioning(encoder):
    return SegmentConditioning([encoder], PromptSettings())


def test_editing_one_sentence_of_twenty_encodes_one_segment(encoder, conditioning):
    conditioning([" ".join(TWENTY)], None, True)
    # the empty text is encoded twice: as the negative prompt, and padded to the window for the padding vector
    assert (encoder.calls, encoder.encoded) == (2, 22)
    edited = [*TWENTY]
    edited[7] = "There is a purple umbrella in a meadow."
    conditioning([" ".join(edited)], None, True)
    assert (encoder.calls, encoder.encoded) == (3, 23)
    conditioning([" ".join(reversed(edited))], [TWENTY[3]], True)
    assert (encoder.calls, encoder.encoded) == (3, 23)  # nothing new in another order


def test_memory_changes_nothing(encoder, conditioning):
    texts = [" ".join(TWENTY), "a cat"]
    fresh = conditioning(texts, None, True)
    again = conditioning(texts, None, True)
    assert torch.equal(fresh.prompt_embeds, again.prompt_embeds)
    encoder.forget()
    alone = conditioning(texts[1:], None, True)
    rows = fresh.plans[1][0].used
    torch.testing.assert_close(
        alone.prompt_embeds[0, :rows], fresh.prompt_embeds[1, :rows], rtol=1e-4, atol=1e-5
    )


def test_alone_the_memory_and_the_batch_change_not_a_bit(sd):
    """Rounding depends on the size of a call, so texts of one call would depend on each other."""
    settings = PromptSettings(alone=True)
    warm, cold = (LongPromptEncoder.from_pipeline(sd, settings) for _ in range(2))
    texts = [" ".join(TWENTY), "a cat"]
    warm([" ".join(TWENTY[3:]), " ".join(TWENTY[:9])])
    (encoder,) = warm.conditioning.encoders
    assert encoder.calls == encoder.encoded == 22
    assert torch.equal(warm(texts).prompt_embeds, cold(texts).prompt_embeds)
    assert torch.equal(cold(texts[1:]).prompt_embeds[0, :5], cold(texts).prompt_embeds[1, :5])
    torch.testing.assert_close(
        LongPromptEncoder.from_pipeline(sd)(texts).prompt_embeds,
        cold(texts).prompt_embeds,
        rtol=1e-4,
        atol=1e-5,
    )


def test_new_weights_empty_the_memory(encoder, conditioning):
    before = conditioning(["a cat"], None, False).prompt_embeds
    with torch.no_grad():
        encoder.model.final_layer_norm.bias.add_(1.0)
    after = conditioning(["a cat"], None, False).prompt_embeds
    torch.testing.assert_close(after, before + 1.0, rtol=1e-4, atol=1e-4)


def test_the_memory_forgets_the_oldest_beyond_its_size(encoder):
    texts = [(0, token, 1) for token in range(10, 20)]  # three rows each
    encoder.cache_rows = 12
    encoder.encode(texts[:4])
    encoder.encode(texts[:1])  # used again, so the second is now the oldest
    encoder.encode(texts[4:5])
    assert encoder.encoded == 5
    encoder.encode([texts[0], texts[2], texts[3], texts[4]])
    assert encoder.encoded == 5
    encoder.encode(texts[1:2])
    assert encoder.encoded == 6


def test_a_call_beyond_the_memory_still_answers_with_what_was_remembered(encoder):
    """New texts push out the one that the same call asked for."""
    texts = [(0, token, 1) for token in range(10, 20)]  # three rows each
    encoder.cache_rows = 12
    (first,) = encoder.encode(texts[:1])
    answers = encoder.encode([*texts[1:], texts[0]])
    assert len(answers) == 10 and encoder.encoded == 10
    assert answers[-1].hidden.equal(first.hidden)


def test_a_text_is_the_encoder_s_own_output(encoder):
    ids = tuple(encoder.reader.tokenizer("a red cat").input_ids)
    (answer,) = encoder.encode([ids])
    with torch.no_grad():
        output = encoder.model(input_ids=torch.tensor([ids]))
    assert torch.equal(answer.hidden, output.last_hidden_state[0])
    assert torch.equal(answer.pooled, output.pooler_output[0])


def test_padding_fills_the_block_and_the_start_mark_stays(encoder, conditioning):
    encoded = conditioning(["a red cat"], None, True)
    plan = encoded.plans[0][0]
    block = encoded.prompt_embeds[0]
    blank = encoder.blank()
    assert torch.equal(block[plan.used :], blank[17:].mean(0).expand(240 - plan.used, -1))
    assert torch.equal(encoded.negative_prompt_embeds[0, 0], blank[0])
    assert encoded.negative_plans[0][0].used == 1


def test_weights_move_their_tokens_only(conditioning, encoder):
    plain = conditioning(["a red cat"], None, False).prompt_embeds[0]
    ones = conditioning(["a (red:1.0) cat"], None, False).prompt_embeds[0]
    assert torch.equal(plain, ones)
    strong = conditioning(["a (red:1.5) cat"], None, False).prompt_embeds[0]
    moved = (strong != plain).any(1).nonzero().flatten().tolist()
    assert moved == [2]  # start mark, "a", "red"
    blank = encoder.blank()[2]
    torch.testing.assert_close(strong[2], blank + 1.5 * (plain[2] - blank), rtol=1e-5, atol=1e-5)
    none = conditioning(["a (red:0) cat"], None, False).prompt_embeds[0]
    torch.testing.assert_close(none[2], blank, rtol=1e-5, atol=1e-6)


def test_weights_reach_t5_before_the_adapter(encoder):
    torch.manual_seed(1)
    t5 = CachedTextEncoder(build_t5(16), TokenReader(build_t5_tokenizer(), 4800))
    both = SegmentConditioning(
        [encoder], PromptSettings(), t5=t5, adapter=torch.nn.Identity().requires_grad_()
    )
    both.combine = lambda clip, states: torch.cat([clip, states], 1)
    plain = both(["a red cat"], None, False).prompt_embeds[0, 240:]
    strong = both(["a (red:1.5) cat"], None, False).prompt_embeds[0, 240:]
    assert (strong != plain).any(1).nonzero().flatten().tolist() == [1]


def test_two_encoders_share_their_segments(sdxl):
    built = LongPromptEncoder.from_pipeline(sdxl)
    encoded = built(["! cat! ! A red dog.", "a cat"], "ugly!")
    assert encoded.negative_prompt_embeds.shape == encoded.prompt_embeds.shape
    first, second = built.conditioning.encoders
    assert (first.reader.pad_id, first.reader.tokenizer.pad_token) != (
        second.reader.pad_id, second.reader.tokenizer.pad_token
    )  # fmt: skip
    plan = encoded.plans[0][0]
    ids = [segment.runs[0].ids == segment.runs[1].ids for segment in plan.segments]
    assert all(ids)  # "!" is real text here, though the second tokenizer pads with it
    with torch.no_grad():
        wrapped = torch.tensor([second.reader.wrap(plan.segments[0].runs[1])])
        hidden = second.model(input_ids=wrapped, output_hidden_states=True).hidden_states[-2]
    rows = plan.segments[0].num_rows
    torch.testing.assert_close(encoded.prompt_embeds[0, :rows, 16:], hidden[0, :rows], rtol=1e-4, atol=1e-5)


def test_pooled_vectors_are_means_or_the_first(sdxl):
    text = "A red cat. A blue house."
    mean = LongPromptEncoder.from_pipeline(sdxl)(text).pooled_prompt_embeds
    first = LongPromptEncoder.from_pipeline(sdxl, PromptSettings(pooled="first"))(text).pooled_prompt_embeds
    alone = LongPromptEncoder.from_pipeline(sdxl)("A red cat.").pooled_prompt_embeds
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean, first, atol=1e-3)


@pytest.mark.parametrize("prompt", [[], [1], None, {"a": 1}])
def test_no_text_is_refused(sd, prompt):
    with pytest.raises(ValueError, match="prompt must be a string"):
        LongPromptEncoder.from_pipeline(sd)(prompt)


def test_lists_of_different_lengths_are_refused(sd):
    with pytest.raises(ValueError, match="2 negative prompts were given for 1 prompts"):
        LongPromptEncoder.from_pipeline(sd)(["a"], ["b", "c"])


def test_foreign_encoders_are_refused(sd):
    class Pipe:
        components = {"text_encoder": build_t5()}

    with pytest.raises(ValueError, match="T5EncoderModel"):
        LongPromptEncoder.from_pipeline(Pipe())


def test_encoding_times_are_measured():
    times = measure_encoding(build_clip_text(), build_clip_tokenizer())
    assert len(times) == 4 and all(seconds > 0 for seconds in times.values())
