"""Tokens from text or classes: cache, guidance, prefixes, streams, saving, refusals."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines import FlexARPipeline, FlexTokPipeline
from pipelines.flextok import transformer_flexar
from pipelines.flextok.licence import LicenceNotAccepted, licence_notice
from pipelines.flextok.token_sampling import TokenSampling
from pipelines.flextok.transformer_flexar import FlexARModel
from tests.pipelines.flextok.conftest import tiny_generator

PROMPTS = ["a red ball", "two large green striped umbrellas in a snowy field"]
GREEDY = TokenSampling(2.0, temperature=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["text", "class"])
def told(request, text_generator, class_generator):
    """(pipeline, what to make) for both kinds of condition."""
    if request.param == "text":
        return text_generator, {"prompt": PROMPTS}
    return class_generator, {"class_labels": [3, 0]}


@pytest.mark.parametrize("scale", [None, 1.0, 3.0])
def test_the_cache_changes_nothing(told, scale):
    pipeline, wanted = told
    sampling = TokenSampling(scale, temperature=0.0)
    with_cache, without = (
        pipeline.generate(**wanted, sampling=sampling, use_cache=flag) for flag in (True, False)
    )
    assert torch.equal(with_cache, without) and with_cache.shape == (2, 16)
    drawn = [
        pipeline.generate(**wanted, sampling=TokenSampling(scale), generator=seeded(4), use_cache=flag)
        for flag in (True, False)
    ]
    assert torch.equal(*drawn)


def test_cached_logits_are_those_of_the_whole_sequence(class_generator):
    model = class_generator.transformer
    ids = torch.randint(0, 200, (2, 15))
    condition = model.class_condition([1, None])
    with torch.no_grad():
        whole = model(ids, condition)
        cache = model.new_cache(2)
        parts = [model(ids[:, :4], condition, cache), model(ids[:, 4:9], condition, cache)]
        parts += [model(ids[:, i : i + 1], condition, cache) for i in range(9, 15)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="this model has 16"):
        model(ids[:, :1], condition, cache)


def test_small_and_large_models_step_alike(told, monkeypatch):
    """Small ones on one thread from copies of their weights, large ones on all threads from the weights."""
    pipeline, wanted = told
    real, seen = transformer_flexar.step, []

    def step(trunk, x, text_bias, cache):
        x = real(trunk, x, text_bias, cache)
        owns = cache.weights[0].qkv.untyped_storage().data_ptr()
        seen.append((torch.get_num_threads(), owns))
        return x

    monkeypatch.setattr(transformer_flexar, "step", step)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        small = pipeline.generate(**wanted, sampling=GREEDY)
        assert torch.get_num_threads() == 2 and {threads for threads, _ in seen} == {1}
        assert len({place for _, place in seen}) == 1  # laid out once, not at every token
        monkeypatch.setattr(transformer_flexar, "SMALL", 0)
        seen.clear()
        large = pipeline.generate(**wanted, sampling=GREEDY)
        attention = pipeline.transformer.ar_image_model.trunk.blocks[0]
        attention = getattr(attention, "self_attn", None) or attention.attn
        assert set(seen) == {(2, attention.qkv.weight.untyped_storage().data_ptr())}
    finally:
        torch.set_num_threads(before)
    assert torch.equal(small, large)


def test_no_token_sees_a_later_one(text_generator):
    model = text_generator.transformer
    ids = torch.randint(0, 200, (1, 15))
    condition = text_generator.encode_prompt(PROMPTS[:1])
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 200
    with torch.no_grad():
        first, second = model(ids, condition), model(changed, condition)
    torch.testing.assert_close(first[:, :8], second[:, :8])
    assert not torch.allclose(first[:, 8:], second[:, 8:])


def test_guidance_contrasts_with_nothing_and_not_with_a_class(class_generator):
    """By hand: the null rows never see a class, at no step."""
    model, ids = class_generator.transformer, torch.zeros(1, 0, dtype=torch.long)
    for _ in range(6):
        with torch.no_grad():
            told, null = (model(ids, model.class_condition([c]))[:, -1] for c in (3, None))
        guided = null + 2.0 * (told - null)
        ids = torch.cat([ids, guided.argmax(-1, keepdim=True)], 1)
    found = class_generator.generate(class_labels=3, keep=6, sampling=GREEDY)
    assert torch.equal(found, ids)
    embedding = model.ar_image_model.preprocessor
    start = embedding(torch.zeros(1, 0, dtype=torch.long), torch.tensor([-1]), 0)
    expected = embedding.sos_token_embed + embedding.positional_embedding[:1]
    assert torch.equal(start, expected)


def test_a_row_does_not_depend_on_its_batch(told):
    pipeline, wanted = told
    both = pipeline.generate(**wanted, generator=[seeded(1), seeded(2)])
    (name, values), rows = next(iter(wanted.items())), []
    for value, seed in zip(values, (1, 2), strict=True):
        rows.append(pipeline.generate(**{name: value}, generator=seeded(seed))[0])
    assert torch.equal(both, torch.stack(rows))


def test_short_texts_are_not_changed_by_padding(text_generator):
    alone = text_generator.encode_prompt(PROMPTS[:1])
    padded = text_generator.encode_prompt(PROMPTS)
    length = alone.text.shape[1]
    torch.testing.assert_close(padded.text[0, :length], alone.text[0], rtol=1e-4, atol=1e-5)
    assert padded.text_bias[0, 0, 0, length:].isneginf().all()
    assert not padded.text_bias[1].isneginf().any()


def test_prompts_differ_and_seeds_differ(text_generator):
    with torch.no_grad():
        logits = text_generator.transformer(
            torch.zeros(2, 3).long(), text_generator.encode_prompt(["a red cat", "a cat red"])
        )
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    first, second = (text_generator.generate(PROMPTS, keep=4, generator=seeded(seed)) for seed in (1, 2))
    assert not torch.equal(first, second)


def test_fewer_tokens_are_the_first_of_more(told):
    pipeline, wanted = told
    long = pipeline.generate(**wanted, generator=[seeded(1), seeded(2)])
    short = pipeline.generate(**wanted, keep=5, generator=[seeded(1), seeded(2)])
    assert torch.equal(short, long[:, :5])


def test_a_prefix_is_kept_and_gone_on_with(told):
    pipeline, wanted = told
    whole = pipeline.generate(**wanted, sampling=GREEDY)
    for use_cache in (True, False):
        rest = pipeline.generate(**wanted, sampling=GREEDY, prefix=whole[:, :6], use_cache=use_cache)
        assert torch.equal(rest, whole)
    shared = pipeline.generate(**wanted, sampling=GREEDY, prefix=[9, 8, 7])
    assert shared[:, :3].tolist() == [[9, 8, 7]] * 2


def test_tokens_stream_one_by_one_and_stop_on_request(told):
    pipeline, wanted = told
    lengths = [ids.shape[1] for ids in pipeline.stream(**wanted, keep=4)]
    assert lengths == [1, 2, 3, 4]
    stopped = pipeline.generate(**wanted, on_token=lambda ids: ids.shape[1] == 3)
    assert stopped.shape == (2, 3)


def test_call_paints_and_counts(text_generator, class_generator):
    result = text_generator(PROMPTS, keep=4, num_images_per_prompt=2, generator=seeded())
    assert len(result.images) == 4 and result.images[0].size == (64, 64)
    assert [len(row) for row in result.tokens] == [4] * 4
    assert not torch.equal(result.tokens[0], result.tokens[1])  # they part from the first token on
    images, tokens = class_generator(
        class_labels=2, keep=3, output_type="tokens", return_dict=False, generator=seeded()
    )
    assert images == [] and tokens[0].shape == (3,)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    arrays = text_generator(PROMPTS[0], keep=2, output_type="np", decode_options=options, generator=seeded())
    assert arrays.images.shape == (1, 64, 64, 3)
    again = text_generator(PROMPTS[0], keep=2, output_type="np", decode_options=options, generator=seeded())
    assert np.array_equal(arrays.images, again.images)


def test_one_folder_serves_both_pipelines(text_generator, tmp_path):
    text_generator.save_pretrained(tmp_path)
    loaded, tokenizer = FlexARPipeline.from_pretrained(tmp_path), FlexTokPipeline.from_pretrained(tmp_path)
    ids = loaded.generate(PROMPTS, sampling=GREEDY)
    assert torch.equal(ids, text_generator.generate(PROMPTS, sampling=GREEDY))
    assert tokenizer.config.default_steps == 3 and tokenizer.levels == (8, 5, 5)
    latents = torch.randn(1, 4, 8, 8)
    assert torch.equal(tokenizer.tokenize(latents), text_generator.flextok.tokenize(latents))


def test_the_folder_says_how_many_tokens_are_drawn(text_generator, tmp_path, caplog):
    text_generator.save_pretrained(tmp_path)
    assert text_generator.generate(PROMPTS, sampling=GREEDY).shape == (2, 16)  # no say: all
    few = FlexARPipeline.from_pretrained(tmp_path, default_keep=5)
    few.save_pretrained(tmp_path)
    few = FlexARPipeline.from_pretrained(tmp_path)
    assert few.generate(PROMPTS, sampling=GREEDY).shape == (2, 5)
    assert few.generate(PROMPTS, keep=7, sampling=GREEDY).shape == (2, 7)
    assert few.generate(PROMPTS[0], prefix=[1, 2], sampling=GREEDY).shape == (1, 5)
    assert few.generate(PROMPTS[0], prefix=[1] * 5, sampling=GREEDY).shape == (1, 16)
    caplog.clear()
    FlexTokPipeline.from_pretrained(tmp_path)
    assert caplog.messages == []  # what only the generator has is none of its business
    for wrong in (0, 17, 5.0, True):
        with pytest.raises(ValueError, match="default_keep is"):
            FlexARPipeline.from_pretrained(tmp_path, default_keep=wrong)


def test_class_models_save_without_text_parts(class_generator, tmp_path):
    class_generator.save_pretrained(tmp_path)
    loaded = FlexARPipeline.from_pretrained(tmp_path)
    assert loaded.text_encoder is None
    assert torch.equal(
        loaded.generate(class_labels=1, sampling=GREEDY),
        class_generator.generate(class_labels=1, sampling=GREEDY),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at least one prompt"),
        ({"prompt": []}, "at least one prompt"),
        ({"prompt": "a", "class_labels": 1}, "either prompt or class_labels"),
        ({"class_labels": 1}, "conditioned on a text"),
        ({"prompt": "a", "keep": 0}, "1 to 16"),
        ({"prompt": "a", "keep": 17}, "1 to 16"),
        ({"prompt": "a", "keep": 257}, "1 to 16"),
        ({"prompt": "a", "prefix": [200]}, "0 to 199"),
        ({"prompt": "a", "prefix": [1] * 16}, "0 to 15"),
        ({"prompt": "a", "prefix": [0.5]}, "integers"),
        ({"prompt": "a", "prefix": torch.zeros(2, 2).long()}, r"expected integers \[n\] or \[1, n\]"),
        ({"prompt": "a", "prefix": 3}, "expected integers"),
        ({"prompt": "a", "prefix": torch.tensor(3)}, "expected integers"),
        ({"prompt": "a", "generator": [torch.Generator()] * 2}, "2 generators"),
    ],
)
def test_bad_arguments_are_refused(text_generator, options, message):
    with pytest.raises(ValueError, match=message):
        text_generator.generate(**options)


def test_bad_classes_and_texts_are_refused(class_generator, text_generator):
    for label in (5, -1):
        with pytest.raises(ValueError, match="0 to 4 and None"):
            class_generator.generate(class_labels=label)
    with pytest.raises(ValueError, match="no text encoder"):
        class_generator.generate("a cat")
    model = text_generator.transformer
    with pytest.raises(ValueError, match=r"\[B, L, 16\]"):
        model.text_condition(torch.zeros(1, 3, 8), torch.ones(1, 3))
    with pytest.raises(ValueError, match="at least one token"):
        model.text_condition(torch.zeros(1, 3, 16), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="num_images_per_prompt"):
        text_generator("a", num_images_per_prompt=0)


def test_models_that_do_not_belong_together_are_refused(flextok):
    with pytest.raises(ValueError, match="300 ids, its tokenizer 200"):
        tiny_generator(flextok, None, vocab_size=300)
    with pytest.raises(ValueError, match="makes 17 tokens"):
        tiny_generator(flextok, None, num_tokens=17)
    with pytest.raises(ValueError, match="condition"):
        FlexARModel(condition="music")
    with pytest.raises(ValueError, match="multiple of 3"):
        FlexARModel(width=32, num_heads=3)


# published generators


@pytest.fixture
def publish(tmp_path, flextok, build_parts):
    """Write a generator as published: `(folder, pipeline of the same parts)`; heads of 64."""

    def write(condition):
        parts = build_parts() if condition == "text" else None
        pipeline = tiny_generator(flextok, parts, width=64, num_heads=1)
        tensors = {f"models.{name}": value for name, value in pipeline.transformer.state_dict().items()}
        tensors["models.image_tokenizer.left_over"] = torch.zeros(2)
        folder = tmp_path / f"FlexAR-{condition}"
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.yaml").write_text("model: {meta_model: !!python/object:os.system []}")
        if parts:
            pipeline.text_encoder.save_pretrained(tmp_path / "t5")
            pipeline.tokenizer.save_pretrained(tmp_path / "t5")
        return folder, pipeline

    return write


def test_a_published_generator_is_put_together_with_its_parts(publish, flextok, tmp_path):
    folder, pipeline = publish("text")
    flextok.save_pretrained(tmp_path / "tokenizer")
    expected = pipeline.generate(PROMPTS, sampling=GREEDY)
    for tokenizer in (flextok, tmp_path / "tokenizer"):
        loaded = FlexARPipeline.from_pretrained(folder, flextok=tokenizer, text=tmp_path / "t5")
        assert torch.equal(loaded.generate(PROMPTS, sampling=GREEDY), expected)
        assert loaded.config.default_steps == 3 and not loaded.transformer.training
    file = folder / "model.safetensors"
    loaded = FlexARPipeline.from_pretrained(file, flextok=flextok, text=tmp_path / "t5", dtype=torch.bfloat16)
    assert loaded.transformer.dtype == loaded.text_encoder.dtype == torch.bfloat16
    loaded = FlexARPipeline.from_pretrained(folder, flextok=flextok, text=tmp_path / "t5", num_heads=4)
    assert loaded.transformer.config.num_heads == 4
    loaded.save_pretrained(tmp_path / "ours")
    assert FlexARPipeline.from_pretrained(tmp_path / "ours").transformer.config.num_heads == 4


def test_a_published_generator_for_classes_needs_no_text(publish, flextok):
    folder, pipeline = publish("class")
    loaded = FlexARPipeline.from_pretrained(folder, flextok=flextok)
    assert loaded.text_encoder is None
    told = {"class_labels": [3, 0], "sampling": GREEDY}
    assert torch.equal(loaded.generate(**told), pipeline.generate(**told))


def test_what_a_published_generator_lacks_is_named(publish, flextok, tmp_path, build_parts):
    folder, _ = publish("text")
    with pytest.raises(ValueError, match="give flextok=, the tokenizer it was trained with"):
        FlexARPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="give text=, the T5 encoder"):
        FlexARPipeline.from_pretrained(folder, flextok=flextok)
    with pytest.raises(ValueError, match="this isn't a FlexAR checkpoint"):
        FlexARPipeline.from_pretrained(tmp_path / "t5", flextok=flextok)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        FlexARPipeline.from_pretrained(tmp_path, flextok=flextok)
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="other formats can run code"):
        FlexARPipeline.from_pretrained(tmp_path / "model.bin", flextok=flextok)
    with pytest.raises(ValueError, match="the text encoder is 16 wide, the model reads 24"):
        tiny_generator(flextok, build_parts(), text_dim=24)
    with pytest.raises(ValueError, match="told classes"):
        tiny_generator(flextok, build_parts(), condition="class", num_classes=3)


def test_a_generator_of_the_hub_shows_its_licence_first(monkeypatch, publish, flextok):
    import huggingface_hub

    folder, _ = publish("class")
    asked = []

    def snapshot(name, **options):
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    name = "EPFL-VILAB/FlexAR-1B-C2I"
    notice = "(?s)model's page.*FlexTok tokenizer.*research only.*nothing has been downloaded.*accept_licence"
    with pytest.raises(LicenceNotAccepted, match=notice):
        FlexARPipeline.from_pretrained(name)
    assert asked == []
    loaded = FlexARPipeline.from_pretrained(name, accept_licence=True, flextok=flextok, revision="main")
    assert loaded.num_tokens == 16 and asked[0][0] == name and asked[0][1]["revision"] == "main"
    with pytest.raises(LicenceNotAccepted, match="google/flan-t5-xl is not part of this project"):
        FlexARPipeline.from_published(publish("text")[0], flextok=flextok, text="google/flan-t5-xl")
    assert len(asked) == 1 and "FlexTok tokenizer" not in licence_notice("somebody/FlexAR-1B")
