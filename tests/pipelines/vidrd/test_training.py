"""The recipes, on tiny models: they learn, resume, start again from published weights, and are published."""

import json
import shutil
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from pipelines import VidRDPipeline
from pipelines.storybook import clip_latents
from pipelines.storybook.clips import Clip, ClipMix, Motion, sample_clip
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.scene import SceneMix
from pipelines.storybook.text import build_clip_tokenizer
from pipelines.training.loop import LoopConfig, Run
from pipelines.vidrd import publish, train, train_decoder, train_interpolation, train_text, train_video
from pipelines.vidrd.evaluate import evaluate_decoder
from pipelines.vidrd.objective import draw_times, from_pure_noise, load_sampler, noisy_and_target
from pipelines.vidrd.train_decoder import DecoderTask, PatchCritic3D, flicker, reconstruction
from pipelines.vidrd.train_interpolation import InterpolationTask
from pipelines.vidrd.train_text import TextTask
from pipelines.vidrd.train_video import VideoTask, cell_weights, sample_clips
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel, is_temporal
from tests.pipelines.vidrd.conftest import ddim, shake, tiny_text

EASY = ClipMix(SceneMix(counts=(1.0, 0.0, 0.0), groups=0.0, patterned=0.0))
SLOT = 3  # of the stream; its clip moves


def image_vae(width):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width,) * 4, latent_channels=16, norm_num_groups=4, mid_block_add_attention=False,
        scaling_factor=1.0, shift_factor=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def decoder_parts(tmp_path_factory, parts):
    """The same with an autoencoder whose widths fill the groups of temporal norms."""
    folder = tmp_path_factory.mktemp("decoder") / "storybook-sd"
    shutil.copytree(parts, folder)
    torch.manual_seed(0)
    image_vae(32).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A tiny `storybook-sd`: 16 latent channels at 64 px, random weights."""
    torch.manual_seed(0)
    tokenizer = build_clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=16, out_channels=16, block_out_channels=(32,), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip
    vae = image_vae(8)
    folder = tmp_path_factory.mktemp("parts") / "storybook-sd"
    StableDiffusionPipeline(
        vae=vae, text_encoder=tiny_text(tokenizer), tokenizer=tokenizer, unet=shake(unet, scale=0.02),
        scheduler=ddim(prediction_type="v_prediction"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(clip_latents, "TILE", 64)  # half the side: a quarter of the work
    monkeypatch.setattr(train_video, "HELD_OUT_COUNT", 1)
    monkeypatch.setattr(train_decoder, "HELD_OUT_COUNT", 1)
    monkeypatch.setattr(train_interpolation, "HELD_OUT_COUNT", 1)
    monkeypatch.setattr(train_video, "SHEET_PROMPTS", ("a red ball",))
    monkeypatch.setattr(train_video, "SHEET_STEPS", 1)


def recipe(**options):
    base = {"samples": 1000, "batch": 1, "lr": 3e-3, "warmup": 1, "decay_from": 1.0, "ema_decay": 0.9}
    return LoopConfig(**{**base, **options})


def weights(task):
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def test_image_weights_stay_and_the_loss_falls(parts, cache, tmp_path):
    task = VideoTask(parts, cache, size=1)
    before = weights(task)
    run = Run(task, recipe(), tmp_path)
    first = [run.task.loss(seed, 1)[0].item() for seed in (900, 901)]
    for _ in range(6):
        run.train_step()
    task.model.eval()
    last = [run.task.loss(seed, 1)[0].item() for seed in (900, 901)]
    assert sum(last) < 0.97 * sum(first), (first, last)
    after = weights(task)
    changed = {name for name in before if not before[name].bfloat16().equal(after[name].bfloat16())}
    assert changed and all(is_temporal(name) for name in changed)


def test_with_attention_the_papers_layers_learn_too(parts, cache):
    task = VideoTask(parts, cache, size=1, with_attention=True)
    trained = {name for name, p in task.model.named_parameters() if p.requires_grad}
    image = {name for name in trained if not is_temporal(name)}
    assert image and all(".attn1." in name or ".attn2." in name for name in image)
    assert {name for name, _ in task.model.named_parameters() if is_temporal(name)} < trained


def test_a_resumed_run_is_the_unbroken_one(parts, cache, tmp_path):
    unbroken = Run(VideoTask(parts, cache, size=2), recipe(), tmp_path / "a")
    losses = [unbroken.train_step()["loss"] for _ in range(3)]
    first = Run(VideoTask(parts, cache, size=2), recipe(), tmp_path / "b")
    assert [first.train_step()["loss"] for _ in range(2)] == losses[:2]
    first.save()
    second = Run(VideoTask(parts, cache, size=2), recipe(), tmp_path / "b")
    assert second.samples == 2 and second.train_step()["loss"] == losses[2]


def test_a_run_becomes_a_folder_that_films_and_a_run_starts_from_it(parts, cache, tmp_path):
    run = Run(VideoTask(parts, cache, size=1), recipe(), tmp_path / "state")
    for _ in range(2):
        run.train_step()
    metrics = run.evaluate()
    assert metrics["held_out_error"] > 0 and Image.open(tmp_path / "state/sheet.png").size == (512, 64)
    folder = tmp_path / "storybook-video"
    publish.main(
        ["video", "--state", str(tmp_path / "state"), "--folder", str(folder), "--parts", str(parts)]
    )
    index = json.loads((folder / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"] and index["scheduler"][1] == "DDIMScheduler"
    pipeline = VidRDPipeline.from_pretrained(folder)
    assert pipeline.base_size == 64 and pipeline.unet.config.temp_embed_at == "attention"
    image = UNet2DConditionModel.from_pretrained(parts / "unet").half().state_dict()
    own = pipeline.unet.half().state_dict()
    assert all(own[name].equal(value) for name, value in image.items())  # not their bf16 copies
    assert own["mid_block.temp_convs.0.convs.15.weight"].any()
    task = VideoTask(parts, cache, size=1)
    start = task.starting_weights(folder)
    again = Run(task, recipe(), tmp_path / "again", start)
    assert again.samples == 0 and again.train_step()["loss"] > 0
    name = "mid_block.temp_convs.0.convs.0.weight"
    assert (task.model.state_dict()[name].float() - start[name].float()).abs().max() < 0.02


def test_the_text_encoder_learns_words_of_motion_and_films_with_them(parts, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(train_text, "HELD_OUT", 4)
    run = Run(TextTask(parts), recipe(batch=4), tmp_path / "state")
    before = float(run.task.loss(900, 16)[0].detach())
    for _ in range(12):
        run.train_step()
    assert float(run.task.loss(900, 16)[0].detach()) < 0.95 * before
    assert set(run.evaluate()) == {"read_right", "sides_right", "change_of_words"}
    folder = tmp_path / "storybook-video"
    words = ["--state", str(tmp_path / "state"), "--folder", str(folder), "--parts", str(parts)]
    publish.main(["text", *words])
    task = VideoTask(parts, cache, size=1, text=folder)
    texts = ["a red ball moves to the left"]
    assert not task.text.encode(texts).equal(VideoTask(parts, cache, size=1).text.encode(texts))
    video = Run(task, recipe(), tmp_path / "video")
    video.evaluate()
    publish.main(["video", "--state", str(tmp_path / "video"), *words[2:]])
    pipeline = VidRDPipeline.from_pretrained(folder)
    assert pipeline.text_encoder.dtype == pipeline.unet.dtype == torch.float32
    own = pipeline.text_encoder.state_dict()
    trained = task.text.encoder.state_dict()
    assert own.keys() == trained.keys() and all(own[name].equal(trained[name]) for name in own)
    task = TextTask(parts)
    again = Run(task, recipe(batch=4), tmp_path / "again", task.starting_weights(folder))
    assert again.train_step()["change"] > 0


@torch.no_grad()
def test_states_behind_the_text_say_what_is_true_and_the_words_stay(parts, monkeypatch):
    """A tower that does exactly what is asked reads all captions right, the one before none with motion."""
    monkeypatch.setattr(train_text, "HELD_OUT", 12)
    task = TextTask(parts)
    assert task.vectors.norm(dim=1).tolist() == pytest.approx([train_text.LENGTH] * 14, rel=1e-4)
    before = task.evaluate(task.model, None)
    assert before["read_right"] < 0.5 and before["change_of_words"] == 0
    ids, truth = task._captions(train_text.HELD_OUT_SEED, 0, 12)
    states, old, is_behind = task._read(task.model, ids)
    ends = (ids == task.tokenizer.eos_token_id).int().argmax(1)
    assert is_behind[..., 0].sum(1).tolist() == (77 - ends).tolist()
    asked = old + is_behind * (truth @ task.vectors)[:, None]
    monkeypatch.setattr(task, "_read", lambda model, ids: (asked, old, is_behind))
    after = task.evaluate(task.model, None)
    assert after == {"read_right": 1.0, "sides_right": 1.0, "change_of_words": 0.0}
    monkeypatch.setattr(task, "_captions", lambda seed, first, count: (ids, truth))
    assert float(task.loss(0, 12)[0]) == pytest.approx(0.0, abs=1e-9)


def test_captions_say_what_the_text_encoder_learns():
    told = [train_text.sayings(sample_clip(sample_rng(5, index))) for index in range(300)]
    assert {saying for row in told for saying in row} == set(train_text.SAYINGS)
    fast = Clip(scene := sample_clip(sample_rng(5, 1)).scene, (Motion("drift", "left", 0.5),))
    assert train_text.sayings(fast) == ["drift left"]
    assert train_text.sayings(Clip(scene, (Motion("drift", "up", 0.1),))) == ["drift up", "slowly"]
    assert train_text.sayings(Clip(scene, (Motion("fall", "down", 0.1),))) == ["fall"]


def test_half_of_the_samples_are_the_others_backwards_with_the_opposite_words(parts, cache, monkeypatch):
    """A clip, its noise and its time come again; where no words tell the way back, the clip comes again."""
    mix = replace(EASY, motions=(0.0, 0.5, 0.0, 0.0, 0.0, 0.5), cameras=(1.0, 0.0, 0.0))
    monkeypatch.setattr(train_video, "ClipMix", lambda **_: mix)
    monkeypatch.setattr(train_video, "DROPOUT", 0.0)
    monkeypatch.setattr(clip_latents, "PSEUDO_SHARE", 0.0)
    task = VideoTask(parts, cache, size=6)
    task.stream = clip_latents.ClipStream(task.vae, cache, 6, mix=mix, seed=8)
    seen = {}

    def record(unet, sample, texts, noise, times, given, known):
        seen.update(x=sample.x, weights=sample.weights, texts=texts, noise=noise, times=times)
        return noise.sum(), {}

    monkeypatch.setattr(task, "_error", record)
    task.loss(0, 12)
    kinds = [task.stream.entry(slot).clip.motions[0].kind for slot in range(6)]
    assert set(kinds) == {"drift", "grow"}
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for row, kind in enumerate(kinds):
        back = row + 6
        is_back = kind == "drift"
        assert seen["x"][back].equal(seen["x"][row].flip(1) if is_back else seen["x"][row])
        assert seen["weights"][back].equal(seen["weights"][row].flip(0) if is_back else seen["weights"][row])
        assert seen["noise"][back].equal(seen["noise"][row]) == is_back
        if is_back:
            direction = task.stream.entry(row).clip.motions[0].direction
            assert direction in seen["texts"][row] and opposite[direction] in seen["texts"][back]
            assert seen["times"][back] == seen["times"][row]
        else:
            assert seen["texts"][back] == seen["texts"][row]


def test_errors_of_motion_count_again(parts, cache, monkeypatch):
    """An error that all frames share counts once, one that changes from frame to frame 1 + the weight."""
    task = VideoTask(parts, cache, size=1, object_weight=1.0)
    task.sampler = ddim(prediction_type="epsilon")
    noise, times = torch.zeros(1, 16, 8, 8, 8), torch.tensor([5])
    sample = train_video._Sample(noise, torch.ones(1, 8, 8, 8))
    none = torch.zeros(1, 8, dtype=torch.bool)
    changing = torch.tensor([1.0, -1.0] * 4).view(1, 1, 8, 1, 1)
    for error, times_counted in ((torch.ones(1), 1.0), (changing, 1.0 + train_video.MOTION_WEIGHT)):
        answer = SimpleNamespace(sample=noise + error)
        loss, figures = task._error(lambda *_, a=answer: a, sample, ["a"], noise, times, none, times)
        assert float(loss) == pytest.approx(times_counted) and figures["error"] == pytest.approx(1.0)


def test_given_frames_are_shown_nearly_clean_and_not_asked_for(parts, cache):
    task = VideoTask(parts, cache, size=1, object_weight=1.0)
    task.sampler = ddim(prediction_type="epsilon")
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, 16, 8, 8, 8, generator=generator) for _ in range(2))
    sample, given = train_video._Sample(x, torch.ones(1, 8, 8, 8)), torch.arange(8)[None] < 3
    shown = []

    def unet(noisy, times, text):
        shown.append((noisy.float(), times))
        wrong = torch.where(given[:, None, :, None, None], 50.0, 1.0)  # where nothing is asked, anything goes
        return SimpleNamespace(sample=noise + wrong)

    late, clean = torch.tensor([900]), torch.tensor([0])
    loss, figures = task._error(unet, sample, ["a"], noise, late, given, clean)
    assert float(loss) == pytest.approx(1.0) and figures["error"] == pytest.approx(1.0)
    (noisy, times), head = shown[0], slice(0, 3)
    assert times.tolist() == [[0] * 3 + [900] * 5]
    assert (noisy[:, :, head] - x[:, :, head]).abs().mean() < 0.05
    assert (noisy[:, :, 3:] - noise[:, :, 3:]).abs().mean() < 0.6


def test_samples_have_frames_given_at_the_head_at_the_tail_or_none():
    rngs = [Random(seed) for seed in range(400)]
    drawn = {tuple(train_video.draw_context(rng, 8).tolist()) for rng in rngs}
    heads = {tuple(index < count for index in range(8)) for count in range(5)}
    tails = {row[::-1] for row in heads}
    both = {tuple(i < a or i >= 8 - b for i in range(8)) for a in (1, 2) for b in (1, 2)}
    assert drawn == heads | tails | both


def test_the_temporal_decoder_learns_and_only_it(decoder_parts, tmp_path):
    parts, cache = decoder_parts, tmp_path / "cache"
    task = DecoderTask(parts, cache, size=1, critic_from=2)
    before = weights(task)
    run = Run(task, recipe(lr=2e-3, batch=1), tmp_path)
    figures = [run.train_step() for _ in range(4)]
    assert "critic" not in figures[1] and figures[2]["critic"] > 0
    after = weights(task)
    changed = {name for name in before if not before[name].bfloat16().equal(after[name].bfloat16())}
    assert changed and all(".temp_convs." in name or name.startswith("critic.") for name in changed)
    assert any(name.startswith("critic.") for name in changed)
    metrics = run.evaluate()
    assert set(metrics) >= {"flicker_on", "flicker_off", "flicker_down", "psnr_on", "psnr_off"}
    assert metrics["flicker_on"] != metrics["flicker_off"]
    folder = tmp_path / "storybook-video"
    folder.mkdir()
    publish.main(["decoder", "--state", str(tmp_path), "--folder", str(folder), "--parts", str(parts)])
    index = json.loads((folder / "model_index.json").read_text())
    assert index["vae"] == ["pipelines.vidrd.autoencoder_vidrd", "VidRDAutoencoderKL"]
    from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL

    stored = VidRDAutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float16).state_dict()
    image = AutoencoderKL.from_pretrained(parts / "vae").half().state_dict()
    assert all(stored[name].equal(value) for name, value in image.items())
    figures = evaluate_decoder(VidRDAutoencoderKL.from_pretrained(folder / "vae"), 1, tmp_path)
    assert figures["flicker_off"] > 0
    with pytest.raises(ValueError, match="no layers along time"):
        evaluate_decoder(AutoencoderKL.from_pretrained(parts / "vae"), 1, tmp_path)


def test_the_critic_never_feels_the_decoders_loss_and_the_other_way_round(decoder_parts, tmp_path):
    task = DecoderTask(decoder_parts, tmp_path, size=1, critic_from=0)
    task.model.to(torch.bfloat16)
    task.loss(0, 1)[0].backward()
    felt = {name for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".temp_convs." in name for name in felt) and any(name.startswith("critic.") for name in felt)
    task.model.zero_grad()
    y = torch.zeros(1, 8, 3, 32, 32, requires_grad=True)
    told = PatchCritic3D()(y.transpose(1, 2).detach())
    told.sum().backward()
    assert y.grad is None and told.shape[0] == 1


def test_steady_clips_lose_less():
    x = torch.zeros(1, 4, 3, 8, 8)
    steady, shaken = x + 0.1, x + 0.1 * torch.tensor([1, -1, 1, -1]).view(1, 4, 1, 1, 1)
    assert reconstruction(steady, x)[0] < reconstruction(shaken, x)[0]
    still = torch.full((4, 3, 8, 8), 0.5)
    assert flicker(still, still) == 0
    moving = still.clone()
    moving[1::2, :, :4] = 1.0
    assert flicker(moving, moving) == 0  # what truly moves is no flicker
    assert flicker(moving, still) == pytest.approx(0.25)


def test_the_interpolator_starts_from_the_video_model(parts, cache, tmp_path):
    folder = tmp_path / "storybook-video"
    folder.mkdir()
    image = UNet2DConditionModel.from_pretrained(parts / "unet")
    VidRDUNet3DModel.from_unet2d(image, add_temp_embed=False).save_pretrained(folder / "unet")
    for name in ("vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"):
        (folder / name).symlink_to(parts / name)
    task = InterpolationTask(folder, cache, size=1)
    assert task.model.conv_in.in_channels == 33
    run = Run(task, recipe(), tmp_path / "state")
    assert run.train_step()["error"] > 0
    assert set(run.evaluate()) == {"held_out_error_2", "held_out_error_4"}
    arguments = ["--state", str(tmp_path / "state"), "--folder", str(folder), "--parts", str(folder)]
    publish.main(["interpolation", *arguments])
    assert VidRDUNet3DModel.from_pretrained(folder / "interpolator").config.in_channels == 33


def test_cells_with_objects_weigh_more_where_the_object_is_now(parts, cache):
    stream = clip_latents.ClipStream(None, cache, 40, mix=EASY)
    entries = [stream.entry(slot) for slot in range(20)]
    moving = next(e for e in entries if e.clip is not None and e.clip.motions[0].kind == "drift")
    still = clip_latents.ClipEntry("a picture", None)
    weight = cell_weights([moving, still], torch.Size((8, 16, 16)), 3.0)
    assert weight.shape == (2, 8, 16, 16) and weight.mean((1, 2, 3)).tolist() == pytest.approx([1, 1])
    assert weight[1].eq(1).all() and not weight[0, 0].equal(weight[0, 7])
    left, top, right, bottom = moving.clip.boxes(1.0)[0]
    centre = weight[0, 7, int((top + bottom) * 8), int((left + right) * 8)]
    assert float(centre / weight[0].min()) == pytest.approx(3.0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_objectives_are_the_samplers_own(kind):
    sampler = ddim(prediction_type=kind)
    x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    times = draw_times(sampler, 2, torch.Generator().manual_seed(1))
    noisy, target = noisy_and_target(sampler, x, noise, times)
    product = sampler.alphas_cumprod[times].view(-1, 1, 1)
    torch.testing.assert_close(noisy, product.sqrt() * x + (1 - product).sqrt() * noise)
    expected = {
        "epsilon": noise,
        "sample": x,
        "v_prediction": product.sqrt() * noise - (1 - product).sqrt() * x,
    }
    torch.testing.assert_close(target, expected[kind])


def test_flows_learn_the_way_to_the_noise(tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    sampler = FlowMatchEulerDiscreteScheduler()
    times = draw_times(sampler, 2, torch.Generator().manual_seed(1))
    noisy, target = noisy_and_target(sampler, x, noise, times)
    level = (times / 1000).view(-1, 1, 1)
    torch.testing.assert_close(noisy, (1 - level) * x + level * noise)
    torch.testing.assert_close(target, noise - x)
    with pytest.raises(ValueError, match="the sampler predicts 'score'"):
        noisy_and_target(ddim(prediction_type="score"), x, noise, times)
    (tmp_path / "model_index.json").write_text('{"scheduler": ["os", "system"]}')
    with pytest.raises(ValueError, match="names the sampler 'system'; allowed: DDIMScheduler"):
        load_sampler(tmp_path)
    with pytest.raises(ValueError, match="is not a model folder"):
        load_sampler(tmp_path / "none")


def test_sheets_show_one_film_per_prompt(parts):
    task_parts = train_video.FrozenText(parts)
    image = UNet2DConditionModel.from_pretrained(parts / "unet")
    unet = VidRDUNet3DModel.from_unet2d(image, add_temp_embed=False).eval()
    vae = AutoencoderKL.from_pretrained(parts / "vae")
    films = sample_clips(unet, task_parts, vae, load_sampler(parts), ["a cat", "a ball"], seed=1, steps=1)
    assert [len(film) for film in films] == [8, 8] and films[0][0].size == (64, 64)
    assert not np.array_equal(films[0][0], films[1][0])


def test_the_command_finds_every_recipe(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in train.RECIPES)
    assert set(train.RECIPES) == {"text", "video", "video-attention", "decoder", "interpolation"}


@pytest.mark.parametrize("flow", [False, True])
def test_more_early_times_are_drawn_where_they_are_asked_for(flow):
    from diffusers import FlowMatchEulerDiscreteScheduler

    sampler = FlowMatchEulerDiscreteScheduler() if flow else ddim(prediction_type="v_prediction")
    shares = []
    for early_share in (0.0, 0.4):
        generator = torch.Generator().manual_seed(1)
        times = draw_times(sampler, 4000, generator, early_share)
        assert float(times.min()) >= 0 and float(times.max()) <= 1000 - (not flow)
        shares.append(float((times >= 800).float().mean()))
    assert shares[1] == pytest.approx(0.4 + 0.6 * shares[0], abs=0.03)


def test_a_video_sampler_begins_at_pure_noise_where_it_can():
    from diffusers import FlowMatchEulerDiscreteScheduler

    sampler = from_pure_noise(ddim(prediction_type="v_prediction"))
    assert float(sampler.alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-6)
    x, noise = torch.ones(400, 1), torch.randn(400, 1)
    times = draw_times(sampler, 400, torch.Generator().manual_seed(1), 1.0)
    noisy, target = noisy_and_target(sampler, x, noise, times)
    last = times == 999
    assert last.any() and torch.allclose(noisy[last], noise[last], atol=1e-3)
    assert torch.allclose(target[last], -x[last], atol=1e-2)
    for other in (ddim(prediction_type="epsilon"), FlowMatchEulerDiscreteScheduler()):
        assert from_pure_noise(other) is other
