"""The tokenizer pipeline: round trips, prefixes, noise, outputs, saving, and every argument's refusal."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import FlexTokPipeline
from pipelines.flextok.flow_sampler import FlowOptions

TOKENS = [torch.tensor([3, 50, 199, 0, 7]), torch.tensor([1, 2])]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pictures_become_ids_and_prefixes_are_the_same(flextok, pictures):
    tokens = flextok.encode(pictures)
    assert [row.shape for row in tokens] == [(16,), (16,)] and tokens[0].dtype == torch.int64
    assert all(0 <= int(row.min()) <= int(row.max()) < 200 for row in tokens)
    for keep in (1, 5):
        short = flextok.encode(pictures, keep=keep)
        assert all(torch.equal(row, whole[:keep]) for row, whole in zip(short, tokens, strict=True))
    assert torch.equal(flextok.encode(pictures[0])[0], tokens[0])
    square = torch.from_numpy(np.array(pictures[0])).permute(2, 0, 1)[None] / 255
    assert torch.equal(flextok.encode(square)[0], tokens[0])


def test_the_posterior_is_sampled_on_request_only(flextok, pictures):
    pixels = flextok.pixels(pictures[:1])
    assert torch.equal(flextok.encode_latents(pixels), flextok.encode_latents(pixels))
    drawn = [flextok.encode_latents(pixels, True, seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_latents_are_scaled_and_shifted_as_the_autoencoder_says(flextok):
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        raw = flextok.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(flextok.encode_latents(pixels), (raw - 0.1) * 0.8)
    with torch.no_grad():
        torch.testing.assert_close(flextok.decode_latents((raw - 0.1) * 0.8), flextok.vae.decode(raw).sample)


def test_decoding_is_the_same_for_the_same_noise_alone_or_in_a_batch(flextok):
    generators = [seeded(5), seeded(6)]
    both = flextok.decode(TOKENS, generator=generators, output_type="latent")
    for row, (tokens, seed) in enumerate(zip(TOKENS, (5, 6), strict=True)):
        alone = flextok.decode([tokens], generator=seeded(seed), output_type="latent")
        torch.testing.assert_close(alone[0], both[row], rtol=0, atol=1e-5)
    again = flextok.decode(TOKENS, generator=[seeded(5), seeded(6)], output_type="latent")
    assert torch.equal(again, both)


def test_only_kept_tokens_matter(flextok):
    other = torch.tensor([3, 50, 11, 12, 13])
    noise = torch.randn(1, 4, 8, 8)
    first, second = (
        flextok.decode([row], keep=2, latents=noise, output_type="latent") for row in (TOKENS[0], other)
    )
    assert torch.equal(first, second)
    whole = flextok.decode([TOKENS[0]], latents=noise, output_type="latent")
    assert not torch.allclose(first, whole)


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
@pytest.mark.parametrize("norm_guidance", [True, False])
def test_switches_change_nothing(flextok, solver, norm_guidance):
    """Collapsed tokens, modulation table and batched guidance against the plain way, with mixed counts."""
    noise, found = torch.randn(2, 4, 8, 8), []
    for fast in (False, True):
        options = FlowOptions(
            4,
            3.0,
            norm_guidance,
            solver,
            collapse_tokens=fast,
            use_modulation_table=fast,
            batch_guidance=fast,
        )
        found.append(flextok.sample_latents(TOKENS, [3, 2], options, latents=noise))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=3e-4)


def test_guidance_of_one_needs_no_second_pass(flextok):
    calls = []
    hook = flextok.decoder.register_forward_hook(lambda module, given, out: calls.append(len(out)))
    for scale, expected in ((1.0, 3), (2.0, 6), (lambda t: 2.0 if t < 0.5 else None, 4)):
        calls.clear()
        flextok.decode(TOKENS, guidance_scale=scale, generator=seeded())
        assert len(calls) == expected
    hook.remove()


def test_outputs(flextok):
    pils = flextok.decode(TOKENS, generator=seeded())
    assert [image.size for image in pils] == [(64, 64)] * 2
    tensor = flextok.decode(TOKENS, generator=seeded(), output_type="pt")
    assert tensor.shape == (2, 3, 64, 64) and 0 <= tensor.min() <= tensor.max() <= 1
    array = flextok.decode(TOKENS, generator=seeded(), output_type="np")
    assert array.shape == (2, 64, 64, 3)
    assert np.array_equal(np.asarray(pils[1]), (array[1] * 255).round().astype(np.uint8))
    assert flextok.encode(tensor)[0].shape == (16,)


def test_callbacks_see_steps_change_latents_and_stop(flextok):
    seen = []

    def watch(pipe, step, time, tensors):
        seen.append((step, time))
        assert set(tensors) == {"latents", "denoised"}

    flextok.decode(TOKENS[:1], generator=seeded(), callback_on_step_end=watch)
    assert [step for step, _ in seen] == [0, 1, 2] and seen[0][1] == 1.0

    def replace(pipe, step, time, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = flextok.decode(TOKENS[:1], callback_on_step_end=replace, output_type="latent")
    assert torch.equal(latents, torch.zeros_like(latents))

    def stop(pipe, step, time, tensors):
        pipe._interrupt = step == 1
        seen.append(step)

    seen.clear()
    assert flextok.decode(TOKENS, callback_on_step_end=stop) == [] and seen == [0, 1]
    assert flextok.interrupt
    assert len(flextok.decode(TOKENS)) == 2 and not flextok.interrupt


def test_the_last_estimate_is_the_result(flextok):
    seen = []
    result = flextok.decode(
        TOKENS, generator=seeded(), output_type="latent",
        callback_on_step_end=lambda p, i, t, tensors: seen.append(tensors["denoised"]),
    )  # fmt: skip
    torch.testing.assert_close(seen[-1], result)


def test_prefixes_come_coarse_first_from_the_same_noise(flextok):
    tokens = torch.randint(0, 200, (16,))
    found = list(flextok.decode_stops(tokens, [16, 1, 4, 4], seed=3, batch=2))
    assert [count for count, _ in found] == [1, 4, 16]
    for count, image in found:
        alone = flextok.decode([tokens], keep=count, generator=seeded(3))[0]
        assert np.abs(np.asarray(alone, int) - np.asarray(image, int)).max() <= 1


def test_call_gives_pictures_and_tokens(flextok, pictures):
    result = flextok(pictures, keep=4, generator=seeded())
    assert len(result.images) == 2 and [len(row) for row in result.tokens] == [4, 4]
    images, tokens = flextok(pictures, keep=4, return_dict=False, generator=seeded())
    assert np.array_equal(np.asarray(images[0]), np.asarray(result.images[0]))
    assert torch.equal(tokens[1], result.tokens[1])


def test_saved_and_loaded_it_is_the_same(flextok, tmp_path):
    flextok.save_pretrained(tmp_path)
    loaded = FlexTokPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert (loaded.config.default_steps, loaded.config.default_guidance) == (3, 2.0)
    first, second = (p.decode(TOKENS, generator=seeded(), output_type="latent") for p in (flextok, loaded))
    assert torch.equal(first, second)
    assert (loaded.side, loaded.num_tokens, loaded.levels) == (64, 16, (8, 5, 5))


def test_half_precision_decodes(fresh_flextok):
    torch.nn.Module.to(fresh_flextok.decoder, dtype=torch.bfloat16)
    assert fresh_flextok.decode(TOKENS, generator=seeded())[0].size == (64, 64)


def test_parts_that_do_not_belong_together_are_refused(flextok):
    from pipelines.flextok.transformer_flextok import FlexTokDecoderModel

    other = FlexTokDecoderModel(**{**flextok.decoder.config, "levels": (5, 5, 5)})
    with pytest.raises(ValueError, match="levels"):
        FlexTokPipeline(flextok.vae, flextok.encoder, other)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([], {}, "1 to 16 per picture"),
        ([[]], {}, "1 to 16 per picture"),
        ([[0] * 17], {}, "1 to 16 per picture"),
        ([[0] * 257], {}, "1 to 16 per picture"),
        ([[200]], {}, "0 to 199"),
        ([[-1]], {}, "0 to 199"),
        ([[0.5]], {}, "integers"),
        ([[1, 2]], {"keep": 0}, "keep is 0"),
        ([[1, 2]], {"keep": 3}, "keep is 3"),
        ([[1, 2]], {"keep": 257}, "keep is 257"),
        ([[1, 2]], {"keep": [1, 1]}, r"keep is \[1, 1\]"),
        ([[1]], {"num_inference_steps": 0}, "1 to 1000"),
        ([[1]], {"guidance_scale": float("inf")}, "finite"),
        ([[1]], {"solver": "magic"}, "solver"),
        ([[1]], {"output_type": "svg"}, "output_type"),
        ([[1]], {"latents": torch.zeros(1, 4, 4, 4)}, "expected"),
        ([[1]], {"generator": [torch.Generator()] * 2}, "2 generators"),
    ],
)
def test_bad_tokens_and_options_are_refused(flextok, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        flextok.decode(tokens, **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "PIL image"),
        (["cat.png"], "PIL image"),
        (torch.rand(1, 3, 32, 32), "64, 64"),
        (torch.rand(3, 64, 64), "64, 64"),
        (torch.rand(1, 3, 64, 64) * 2, "0 to 1"),
        (torch.full((1, 3, 64, 64), float("nan")), "0 to 1"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floats"),
    ],
)
def test_bad_pictures_are_refused(flextok, images, message):
    with pytest.raises(ValueError, match=message):
        flextok.encode(images)


def test_other_bad_encodings_are_refused(flextok, pictures):
    for keep in (0, 17, 257):
        with pytest.raises(ValueError, match="1 to 16"):
            flextok.encode(pictures, keep=keep)
    with pytest.raises(ValueError, match="stretch"):
        flextok.encode(pictures, fit="stretch")
    with pytest.raises(ValueError, match="sides may differ"):
        flextok.encode(Image.new("RGB", (400, 10)))
