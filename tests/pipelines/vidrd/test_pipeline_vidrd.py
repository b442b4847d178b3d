"""The pipeline: diffusers' conventions, clips that continue each other, starts, loops, callbacks."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNetMotionModel
from PIL import Image

from pipelines import VidRDPipeline
from pipelines.vidrd.film_plan import ClipSettings, FilmPlan
from pipelines.vidrd.handover import Handover
from pipelines.vidrd.pipeline_vidrd import middle_crop
from tests.pipelines.vidrd.conftest import VAE, shake, tiny_pipeline, tiny_unet

OPTIONS = {"num_frames": 4, "overlap_frames": 2, "num_inference_steps": 3, "denoise_guidance": 0.7}


def film(pipeline, prompt="a red ball", seed=1, **options):
    generator = options.pop("generator", None) or torch.Generator().manual_seed(seed)
    return pipeline(prompt, generator=generator, **{**OPTIONS, **options})


def pixels(frames):
    return np.stack([np.asarray(frame) for frame in frames])


@pytest.fixture(scope="module")
def made(video_pipeline):
    return film(video_pipeline, num_clips=3)


def test_frames_are_lists_of_pictures_and_clips_cut_them_at_their_borders(made):
    assert len(made.frames) == len(made.clips) == 1
    assert [len(clip) for clip in made.clips[0]] == [4, 2, 2]
    assert all(isinstance(frame, Image.Image) and frame.size == (32, 32) for frame in made.frames[0])
    assert [id(f) for clip in made.clips[0] for f in clip] == [id(f) for f in made.frames[0]]


def test_the_same_seed_gives_the_same_film_and_a_longer_one_begins_with_it(video_pipeline, made):
    again = film(video_pipeline, num_clips=3)
    assert np.array_equal(pixels(again.frames[0]), pixels(made.frames[0]))
    assert not np.array_equal(pixels(film(video_pipeline, seed=2).frames[0]), pixels(made.frames[0][:4]))
    assert np.array_equal(pixels(film(video_pipeline, num_clips=1).frames[0]), pixels(made.clips[0][0]))
    mirrored = film(video_pipeline, num_clips=3, order="mirror")
    assert [len(clip) for clip in mirrored.clips[0]] == [4, 4, 4]


def test_a_video_of_a_batch_is_the_one_filmed_alone(video_pipeline, made):
    generators = [torch.Generator().manual_seed(seed) for seed in (9, 1)]
    both = film(video_pipeline, ["a blue cat in a room", "a red ball"], generator=generators, num_clips=2)
    assert len(both.frames) == 2
    difference = pixels(both.frames[1]).astype(int) - pixels(made.frames[0][:6])
    assert np.abs(difference).max() <= 1  # sums in another order
    two = film(video_pipeline, num_videos_per_prompt=2)
    assert not np.array_equal(pixels(two.frames[0]), pixels(two.frames[1]))


def test_output_types_hold_the_same_frames(video_pipeline):
    whole = film(video_pipeline)
    array = film(video_pipeline, output_type="np").frames
    tensor = film(video_pipeline, output_type="pt").frames
    assert array.shape == (1, 4, 32, 32, 3) and np.array_equal(array[0], pixels(whole.frames[0]))
    assert tensor.shape == (1, 4, 3, 32, 32) and tensor.min() >= 0 and tensor.max() <= 1
    assert np.array_equal((tensor[0] * 255).round().byte().permute(0, 2, 3, 1).numpy(), array[0])
    latents = film(video_pipeline, output_type="latent", num_clips=2).frames
    assert latents.shape == (1, 6, 4, 4, 4)
    frames, clips = film(video_pipeline, return_dict=False)
    assert np.array_equal(pixels(frames[0]), array[0]) and len(clips[0]) == 1


def test_prompts_change_from_a_clip_on(video_pipeline, made):
    changed = film(video_pipeline, num_clips=3, schedule={1: "a blue cat", 2: ClipSettings(seed=5)})
    clips = [pixels(clip) for clip in changed.clips[0]]
    before = [pixels(clip) for clip in made.clips[0]]
    assert np.array_equal(clips[0], before[0])
    assert not np.array_equal(clips[1], before[1]) and not np.array_equal(clips[2], before[2])
    hard = film(video_pipeline, num_clips=3, schedule={1: "a blue cat"}, prompt_fade=0.0)
    faded = film(video_pipeline, num_clips=3, schedule={1: "a blue cat"}, prompt_fade=1.0)
    assert not np.array_equal(pixels(hard.clips[0][1]), pixels(faded.clips[0][1]))


def test_guidance_and_negative_prompts_count(video_pipeline, made):
    plain = film(video_pipeline, guidance_scale=1.0)
    assert not np.array_equal(pixels(plain.frames[0]), pixels(made.frames[0][:4]))
    other = film(video_pipeline, negative_prompt="a dark room")
    assert not np.array_equal(pixels(other.frames[0]), pixels(made.frames[0][:4]))


def test_embeddings_stand_for_texts(video_pipeline, made):
    states = video_pipeline.encode_prompt(["a red ball", ""])
    own = film(video_pipeline, None, prompt_embeds=states[:1], negative_prompt_embeds=states[1:], num_clips=2)
    apart = pixels(own.frames[0]).astype(int) - pixels(made.frames[0][:6])
    assert np.abs(apart).max() <= 1  # how tensors lie in memory decides about the last bits


def test_given_latents_are_the_first_clips_noise(video_pipeline):
    noise = torch.randn(1, 4, 4, 4, 4)
    first, second = (film(video_pipeline, seed=seed, latents=noise).frames[0] for seed in (1, 2))
    assert np.array_equal(pixels(first), pixels(second))


def test_a_film_begins_with_the_given_picture(video_pipeline):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    out = film(video_pipeline, image=picture, output_type="latent", num_inference_steps=12)
    known = video_pipeline.encode_pictures([picture], 32, 32)[0, :, 0]
    distance = (out.frames[0] - known).abs().mean((1, 2, 3))
    assert distance[0] < 0.35 * distance[1:].min()
    assert len(out.frames[0]) == 4  # nothing is left out


def test_a_film_continues_the_given_video(video_pipeline, made):
    start = made.frames[0]
    out = film(video_pipeline, video=start, num_clips=2)
    assert [len(clip) for clip in out.clips[0]] == [2, 2]
    other = film(video_pipeline, video=start[::-1], num_clips=2)
    assert not np.array_equal(pixels(out.frames[0]), pixels(other.frames[0]))
    late = film(video_pipeline, video=start[-4:], num_clips=2)  # only its last frames count
    assert np.array_equal(pixels(out.frames[0]), pixels(late.frames[0]))


def test_a_loop_leads_back(video_pipeline):
    options = {"num_clips": 2, "overlap_frames": 1, "is_loop": True}
    out = film(video_pipeline, **options)
    assert [len(clip) for clip in out.clips[0]] == [4, 2]
    open_end = film(video_pipeline, num_clips=2, overlap_frames=1)
    assert np.array_equal(pixels(out.clips[0][0]), pixels(open_end.clips[0][0]))
    assert not np.array_equal(pixels(out.clips[0][1]), pixels(open_end.clips[0][1][:2]))


def test_weights_that_know_context_go_on_from_the_frames_themselves(video_pipeline):
    pipeline = tiny_pipeline(unet=tiny_unet(knows_context=True))
    options = {**OPTIONS, "denoise_guidance": None, "num_clips": 3, "output_type": "latent"}

    def clips(pipeline, **more):
        generator = torch.Generator().manual_seed(1)
        finished = []
        pipeline("a red ball", generator=generator, **{**options, **more},
                 callback_on_clip_end=lambda _, clip: finished.append(clip.clip))  # fmt: skip
        return finished

    first, second, third = clips(pipeline)
    for before, after in ((first, second), (second, third)):
        assert after.handover.clean and after.latents[:, :, :2].equal(before.latents[:, :, 2:])
    staged = clips(pipeline, denoise_guidance=0.4)[1]  # who names its strength asks for staged guidance
    assert not staged.handover.clean and not staged.latents[:, :, :2].equal(first.latents[:, :, 2:])
    assert not clips(pipeline, order="mirror")[1].handover.clean
    assert not clips(video_pipeline)[1].handover.clean  # other weights know nothing else
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    (begun, *_) = clips(pipeline, image=picture)
    encoded = pipeline.encode_pictures([picture], 32, 32)
    torch.testing.assert_close(begun.latents[:, :, :1], encoded)
    assert begun.shown() == (0, 4)
    *_, closing = clips(pipeline, overlap_frames=1, is_loop=True)
    opening = clips(pipeline, overlap_frames=1)[0]
    assert closing.latents[:, :, 3:].equal(opening.latents[:, :, :1])
    with pytest.raises(ValueError, match="have not learned to go on from clean frames"):
        next(video_pipeline.film(FilmPlan(("a",), ("",), (1,), 32, 32, handover=Handover(2, clean=True))))


def test_callbacks_count_steps_over_all_clips_and_see_clips_as_they_finish(video_pipeline):
    steps, finished = [], []

    def on_step(pipe, step, timestep, tensors):
        assert set(tensors) == {"latents", "denoised"} and tensors["latents"].shape == (1, 4, 4, 4, 4)
        steps.append((step, pipe.clip_index, pipe.step_in_clip, len(finished)))
        return {}

    film(video_pipeline, num_clips=2, callback_on_step_end=on_step,
         callback_on_step_end_tensor_inputs=["latents", "denoised"],
         callback_on_clip_end=lambda pipe, clip: finished.append(clip.frames.shape))  # fmt: skip
    assert steps == [(3 * k + i, k, i, k) for k in (0, 1) for i in range(3)]
    assert finished == [(1, 4, 32, 32, 3), (1, 2, 32, 32, 3)] and video_pipeline.num_timesteps == 6


def test_returned_latents_are_used(video_pipeline):
    def on_step(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    out = film(video_pipeline, callback_on_step_end=on_step, output_type="latent")
    assert not out.frames.any()


def test_after_a_stop_the_finished_clips_are_there(video_pipeline, made):
    def on_step(pipe, step, timestep, tensors):
        pipe._interrupt = step == 4
        return {}

    out = film(video_pipeline, num_clips=3, callback_on_step_end=on_step)
    assert video_pipeline.interrupt and len(out.clips[0]) == 1
    assert np.array_equal(pixels(out.frames[0]), pixels(made.clips[0][0]))
    assert film(video_pipeline).frames and not video_pipeline.interrupt


def test_folders_lose_no_bit(video_folder, made):
    index = json.loads((video_folder / "model_index.json").read_text())
    assert index["_class_name"] == "VidRDPipeline"
    assert index["unet"] == ["pipelines.vidrd.unet_vidrd", "VidRDUNet3DModel"]
    assert index["vae"] == ["pipelines.vidrd.autoencoder_vidrd", "VidRDAutoencoderKL"]
    again = VidRDPipeline.from_pretrained(video_folder)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(pixels(film(again, num_clips=2).frames[0]), pixels(made.frames[0][:6]))


def test_half_precision_films_too(video_folder):
    small = VidRDPipeline.from_pretrained(video_folder, dtype=torch.bfloat16)
    small.set_progress_bar_config(disable=True)
    out = film(small, num_clips=2, output_type="pt")
    assert small.unet.dtype == torch.bfloat16 and out.frames.isfinite().all() and out.frames.std() > 1e-3


def test_the_temporal_decoder_sees_whole_clips_and_a_stock_one_pictures(video_pipeline, made):
    torch.manual_seed(0)
    image = shake(AutoencoderKL(**VAE), scale=0.02)
    image.load_state_dict(video_pipeline.vae.state_dict(), strict=False)
    stock = tiny_pipeline(vae=image)
    latents = torch.randn(1, 4, 4, 4, 4)
    together, apart = (pipeline.decode_latents(latents) for pipeline in (video_pipeline, stock))
    assert together.shape == apart.shape == (1, 4, 3, 32, 32)
    assert (together - apart).abs().max() > 1e-3
    one = latents[:, :, :1]
    torch.testing.assert_close(video_pipeline.decode_latents(one), apart[:, :1], rtol=1e-4, atol=1e-5)


def test_the_video_unet_of_animatediff_is_a_backbone_too(video_pipeline):
    torch.manual_seed(0)
    unet = UNetMotionModel(
        sample_size=4, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), num_attention_heads=2, norm_num_groups=8,
        motion_num_attention_heads=2, motion_max_seq_length=8,
    )  # fmt: skip
    out = film(tiny_pipeline(unet=shake(unet)), num_clips=2)
    assert [len(clip) for clip in out.clips[0]] == [4, 2]


def test_guidance_runs_in_halves_when_memory_is_short(video_pipeline, made, monkeypatch):
    whole, batches = video_pipeline.unet.forward, []

    def scarce(x, *arguments, **options):
        batches.append(len(x))
        if len(x) > 1:
            raise torch.OutOfMemoryError("no more")
        return whole(x, *arguments, **options)

    monkeypatch.setattr(video_pipeline.unet, "forward", scarce)
    out = film(video_pipeline)
    assert batches == [2, 1, 1, 1, 1, 1, 1]
    difference = pixels(out.frames[0]).astype(int) - pixels(made.clips[0][0])
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 10**6}, "num_frames is 1000000; it must be a whole number from 1 to 128"),
        ({"num_clips": 0}, "num_clips is 0"),
        ({"height": 33}, "height is 33; it must be a multiple of 8, at most 4096"),
        ({"width": 8192}, "width is 8192"),
        ({"overlap_frames": 4}, "overlap_frames is 4; chronological clips of 4 allow 0 to 3"),
        ({"order": "random"}, "order is 'random'"),
        ({"schedule": {3: "a cat"}}, "the schedule names clip 3; a film of 1 clips has 0 to 0"),
        ({"output_type": "gif"}, "output_type is 'gif'; it must be one of"),
        ({"prompt": None}, "give either prompt or prompt_embeds"),
        ({"prompt": [1]}, "prompt must be a text or a list of texts"),
        ({"prompt": []}, "prompt must be a text or a list of texts"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts were given for 1 videos"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0"),
        ({"generator": [torch.Generator()] * 2}, "2 generators were given; needed: 1"),
        ({"callback_on_step_end_tensor_inputs": ["x"]}, r"callback tensors \['x'\] are not among"),
        ({"image": Image.new("RGB", (9, 9)), "video": []}, "either an image or a video"),
        ({"video": [Image.new("RGB", (9, 9))]}, "the video to continue has 1 frames; at least 4"),
        ({"latents": torch.zeros(1)}, r"latents are \[1\]; the first clip needs \[1, 4, 4, 4, 4\]"),
    ],
)
def test_wrong_inputs_get_one_clear_line(video_pipeline, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        video_pipeline(**{"prompt": "a cat", **OPTIONS, **options})
    assert "\n" not in str(caught.value)


def test_starts_are_cropped_in_the_middle():
    picture = Image.new("RGB", (60, 20), "red")
    picture.paste("blue", (20, 0, 40, 20))
    cut = middle_crop(picture, 10, 10)
    assert cut.size == (10, 10)
    for x in (0, 5, 9):
        assert cut.getpixel((x, 5))[0] < 20 and cut.getpixel((x, 5))[2] > 235
    assert middle_crop(cut, 10, 10) is cut


def test_published_draws_come_from_one_generator(video_pipeline):
    options = {"as_published": True, "num_clips": 2, "order": "mirror", "output_type": "latent"}
    first = film(video_pipeline, seed=42, **options).frames
    assert first.equal(film(video_pipeline, seed=42, **options).frames)
    generator = torch.Generator().manual_seed(42)
    frames = [torch.randn(1, 4, 1, 4, 4, generator=generator) for _ in range(4)]
    own = film(video_pipeline, latents=torch.cat(frames, 2), order="mirror", output_type="latent").frames
    torch.testing.assert_close(own[:, :4], first[:, :4])
    with pytest.raises(ValueError, match="1 generators were given; needed: one for all videos"):
        film(video_pipeline, generator=[torch.Generator()], as_published=True)
