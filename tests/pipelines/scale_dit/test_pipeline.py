"""What `ScaleDiTPipeline` paints: seeds, batches, sizes, output types, callbacks."""

import numpy as np
import pytest
import torch
from PIL import Image

PROMPT = "a red ball in a meadow"
LONG = "a large blue striped cat to the left of a small white dotted house in a snowy field and a tree"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def paint(pipeline, prompt=PROMPT, *, seed=1, size=(64, 64), **options):
    options = {"num_inference_steps": 3, "high_res_steps": 2, "output_type": "pt", **options}
    options.setdefault("generator", seeded(seed))
    return pipeline(prompt, height=size[0], width=size[1], **options)


@pytest.mark.parametrize("size", [(64, 64), (144, 208)])
def test_the_same_seed_gives_the_same_pixels_and_another_seed_gives_others(pipeline, size):
    first, second, other = (paint(pipeline, seed=seed, size=size).images for seed in (1, 1, 2))
    assert first.shape == (1, 3, *size)
    assert torch.equal(first, second)
    assert (first - other).abs().mean() > 0.01


def test_another_prompt_gives_another_picture(pipeline):
    assert (paint(pipeline).images - paint(pipeline, LONG).images).abs().max() > 1e-4


# 64: one stage; 256: dense second stage; 544: local attention (over 1,024 tokens) and tiled decoding
@pytest.mark.parametrize("size", [(64, 64), (256, 256), (544, 544)])
def test_a_batch_equals_single_pictures_whatever_the_length_of_its_other_texts(pipeline, size):
    options = {"size": size, "num_inference_steps": 2, "high_res_steps": 1, "output_type": "latent"}
    both = paint(pipeline, [PROMPT, LONG], generator=[seeded(3), seeded(4)], **options).images
    for row, (prompt, seed) in enumerate(((PROMPT, 3), (LONG, 4))):
        alone = paint(pipeline, prompt, seed=seed, **options).images
        torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=2e-4)


def test_several_pictures_of_a_prompt_are_neighbours_and_differ(pipeline):
    pair = paint(
        pipeline, [PROMPT, LONG], num_images_per_prompt=2, generator=[seeded(s) for s in (1, 2, 3, 4)]
    )
    assert pair.images.shape[0] == 4
    second = paint(pipeline, PROMPT, seed=2).images[0]
    third = paint(pipeline, LONG, seed=3).images[0]
    torch.testing.assert_close(pair.images[1], second, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pair.images[2], third, rtol=1e-4, atol=1e-4)


def test_output_types_show_the_same_picture(pipeline):
    size = (64, 80)
    tensor = paint(pipeline, size=size).images
    assert tensor.dtype == torch.float32 and tensor.std() > 0
    assert tensor.min() >= 0 and tensor.max() <= 1
    array = paint(pipeline, size=size, output_type="np").images
    assert array.shape == (1, *size, 3)
    np.testing.assert_allclose(array[0], tensor[0].permute(1, 2, 0).numpy(), atol=1e-6)
    (picture,) = paint(pipeline, size=size, output_type="pil").images
    assert isinstance(picture, Image.Image) and picture.mode == "RGB" and picture.size == (80, 64)
    np.testing.assert_allclose(np.asarray(picture) / 255, array[0], atol=0.51 / 255)
    latents = paint(pipeline, size=size, output_type="latent").images
    assert latents.shape == (1, 4, 8, 10)


def test_a_tuple_instead_of_the_output_class(pipeline):
    images, stages = paint(pipeline, return_dict=False)
    output = paint(pipeline)
    assert torch.equal(images, output.images) and stages == output.stages == output["stages"]


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((64, 64), [(64, 64)]),
        ((80, 96), [(64, 64), (80, 96)]),
        ((256, 256), [(64, 64), (256, 256)]),
        ((64, 400), [(64, 160), (64, 400)]),
        ((272, 144), [(80, 64), (272, 144)]),
    ],
)
def test_stages_are_those_of_the_plan(pipeline, size, sizes):
    output = paint(pipeline, size=size)
    assert [(stage.height, stage.width) for stage in output.stages] == sizes
    assert output.images.shape == (1, 3, *size) and output.images.isfinite().all()


def test_sides_default_to_the_base_size(pipeline):
    image = pipeline(PROMPT, num_inference_steps=1, generator=seeded(1)).images[0]
    assert pipeline.base_size == 64 and image.size == (64, 64)


def test_given_noise_replaces_the_generators(pipeline):
    noise = torch.randn(1, 4, 8, 8, generator=seeded(1))
    given = pipeline(PROMPT, latents=noise, num_inference_steps=3, output_type="pt").images
    assert torch.equal(given, paint(pipeline, seed=1).images)


@torch.no_grad()
def test_given_states_replace_the_prompt(pipeline):
    text, pooled = pipeline.encode_prompt(PROMPT)
    given = paint(pipeline, None, prompt_embeds=text, pooled_prompt_embeds=pooled).images
    assert torch.equal(given, paint(pipeline).images)


def test_encoded_prompts_are_padded_to_eights_and_cut_at_the_limit(pipeline):
    text, pooled = pipeline.encode_prompt([PROMPT, LONG])
    assert text.shape == (2, 24, 16) and pooled.shape == (2, 24)  # 20 words and the end
    assert pipeline.encode_prompt(PROMPT)[0].shape == (1, 8, 16)
    assert pipeline.encode_prompt(LONG, max_sequence_length=12)[0].shape == (1, 12, 16)
    cut = paint(pipeline, LONG, max_sequence_length=12).images
    assert not torch.equal(cut, paint(pipeline, LONG).images)


def test_guidance_pushes_away_from_the_negative_prompt(pipeline):
    plain = paint(pipeline, guidance_scale=1.0, output_type="latent").images
    empty = paint(pipeline, output_type="latent").images
    assert torch.equal(empty, paint(pipeline, negative_prompt="", output_type="latent").images)
    same = paint(pipeline, negative_prompt=PROMPT, output_type="latent").images
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)
    assert (empty - plain).abs().max() > 1e-3
    longer = paint(pipeline, negative_prompt=LONG, output_type="latent").images
    prompts, negatives, generators = [PROMPT] * 2, ["", LONG], [seeded(1), seeded(1)]
    both = paint(
        pipeline, prompts, negative_prompt=negatives, generator=generators, output_type="latent"
    ).images
    torch.testing.assert_close(both, torch.cat([empty, longer]), rtol=1e-4, atol=1e-4)


def test_a_guidance_embedding_is_told_the_scale(build_parts):
    from pipelines import ScaleDiTPipeline

    pipeline = ScaleDiTPipeline(**build_parts(guidance_embeds=True))
    pipeline.set_progress_bar_config(disable=True)
    weak, strong = (paint(pipeline, size=(128, 128), guidance_scale=scale).images for scale in (1.0, 6.0))
    assert (weak - strong).abs().max() > 1e-4
    with pytest.raises(ValueError, match="negative_prompt has no effect"):
        paint(pipeline, negative_prompt="a cat")


def test_the_picture_does_not_depend_on_the_attention_back_end(pipeline):
    options = {"size": (544, 544), "num_inference_steps": 1, "high_res_steps": 1, "output_type": "latent"}
    pictures = {}
    for name in ("sdpa", "explicit"):
        pictures[name] = paint(pipeline, attention_backend=name, **options).images
        assert pipeline.attention_backend == name
    torch.testing.assert_close(pictures["sdpa"], pictures["explicit"], rtol=1e-4, atol=1e-4)
    paint(pipeline)
    assert pipeline.attention_backend == "dense"


def test_steps_count_over_all_stages_and_tensors_are_in_raster_order(pipeline):
    seen = []

    def watch(pipe, step, timestep, tensors):
        shape = tuple(tensors["latents"].shape)
        seen.append((step, pipe.stage_index, pipe.step_in_stage, shape))
        assert sorted(tensors) == ["denoised", "latents", "prompt_embeds"]
        assert tensors["denoised"].shape == shape and tensors["prompt_embeds"].shape == (1, 8, 16)
        assert 0 < float(timestep) <= 1000
        return {}

    names = ["latents", "denoised", "prompt_embeds"]
    final = paint(
        pipeline, size=(256, 128), callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names
    )
    assert final.images.shape == (1, 3, 256, 128)
    small, large = (1, 6 * 4, 16), (1, 16 * 8, 16)
    assert seen == [(0, 0, 0, small), (1, 0, 1, small), (2, 0, 2, small), (3, 1, 0, large), (4, 1, 1, large)]
    assert pipeline.num_timesteps == 5


@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_further_stages_begin_at_the_noise_level_asked_for_under_any_shift(pipeline, monkeypatch, shift):
    levels = []
    config = {**pipeline.scheduler.config, "shift": shift}
    monkeypatch.setattr(pipeline, "scheduler", type(pipeline.scheduler).from_config(config))
    paint(
        pipeline, size=(256, 128), high_res_strength=0.35, num_inference_steps=2,
        callback_on_step_end=lambda pipe, step, time, tensors: levels.append(float(time) / 1000) or {},
    )  # fmt: skip
    first = 1.0 / 2 * shift / (1 + (shift - 1) / 2)
    assert levels[:3] == pytest.approx([1.0, first, 0.35], abs=1e-5)
    assert levels[3] < 0.35


def test_the_last_estimate_of_a_large_stage_is_the_result(pipeline):
    from pipelines.scale_dit.transformer_scale_dit import unpack

    kept = {}
    options = {"num_inference_steps": 1, "high_res_steps": 2, "output_type": "latent"}
    result = paint(
        pipeline, size=(544, 544), callback_on_step_end_tensor_inputs=["latents", "denoised"],
        callback_on_step_end=lambda pipe, step, time, tensors: kept.update(tensors) or {}, **options,
    ).images  # fmt: skip
    for name in ("latents", "denoised"):
        torch.testing.assert_close(unpack(kept[name], (34, 34)), result, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (544, 544)])
def test_returned_latents_are_honoured(pipeline, size):
    options = {"size": size, "num_inference_steps": 1, "high_res_steps": 1, "output_type": "latent"}
    marked = torch.linspace(-1, 1, 4 * size[0] * size[1] // 64).reshape(1, 4, size[0] // 8, size[1] // 8)

    def replace_last(pipe, step, timestep, tensors):
        from pipelines.scale_dit.transformer_scale_dit import pack

        return {"latents": pack(marked)} if step + 1 == pipe.num_timesteps else None

    result = paint(pipeline, callback_on_step_end=replace_last, **options).images
    torch.testing.assert_close(result, marked, rtol=0, atol=1e-6)


def test_returned_states_are_honoured_from_the_next_step_on(pipeline):
    options = {"output_type": "latent", "guidance_scale": 1.0}
    other, _ = pipeline.encode_prompt("a blue star under a night sky", width=8)
    swapped = paint(pipeline, callback_on_step_end=lambda *_: {"prompt_embeds": other}, **options).images

    def swap_at_the_end(pipe, step, timestep, tensors):
        return {"prompt_embeds": other} if step == 2 else {}

    late = paint(pipeline, callback_on_step_end=swap_at_the_end, **options).images
    plain = paint(pipeline, **options).images
    assert not torch.equal(swapped, plain) and torch.equal(late, plain)
    with pytest.raises(ValueError, match=r"prompt_embeds are \[1, 7, 16\]; expected \[1, 8, 16\]"):
        paint(pipeline, callback_on_step_end=lambda *_: {"prompt_embeds": other[:, :7]})


@pytest.mark.parametrize("stop_at", [0, 2, 3])
def test_an_interrupt_skips_all_that_is_left(pipeline, stop_at):
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == stop_at
        return {}

    output = paint(pipeline, size=(128, 128), callback_on_step_end=stop)
    assert steps == list(range(stop_at + 1)) and output.images == [] and pipeline.interrupt
    assert len(paint(pipeline).images) == 1 and not pipeline.interrupt  # the next call starts afresh


def test_a_stop_between_tiles_ends_decoding(pipeline):
    tiles = []

    def stop(done, count):
        tiles.append((done, count))
        return done == 2

    output = paint(pipeline, size=(544, 544), num_inference_steps=1, high_res_steps=1, callback_on_tile=stop)
    assert tiles == [(1, 4), (2, 4)] and output.images == [] and pipeline.interrupt
