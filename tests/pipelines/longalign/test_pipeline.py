"""LongAlignPipeline: diffusers' conventions, the T5 branch, LoRAs with strengths, saving."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from pipelines import LongAlignPipeline
from pipelines.longalign.convert_longsd import main as convert_main
from pipelines.longalign.lora import list_from_named, lora_modules
from pipelines.longalign.parts import LongAlignParts, read_lora
from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.text_adapter import TextAdapter
from pipelines.storybook.text import build_t5_tokenizer
from tests.pipelines.longalign.conftest import build_t5, quiet, sd_parts

PROMPT = "A red cat is in a meadow. A blue house is to the left of the cat. It is large."


def t5_branch():
    torch.manual_seed(1)
    adapter = TextAdapter(24, 20, 16).eval()
    return {"text_encoder_2": build_t5(), "tokenizer_2": build_t5_tokenizer(), "adapter": adapter}


@pytest.fixture(scope="module")
def pipe():
    return quiet(LongAlignPipeline(**sd_parts(), requires_safety_checker=False))


@pytest.fixture(scope="module")
def full():
    return quiet(LongAlignPipeline(**sd_parts(), **t5_branch(), requires_safety_checker=False))


def paint(pipe, prompt=PROMPT, seed=0, **options):
    options = {"num_inference_steps": 2, "output_type": "pt", **options}
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **options).images


def random_list(unet, seed=0, rank=2):
    """A flat list as the authors store it, for every layer of a U-Net."""
    torch.manual_seed(seed)
    layers, flat = dict(unet.named_modules()), []
    for name in lora_modules(unet):
        weight = layers[name].weight
        up = torch.randn(weight.shape[0], rank, *(1,) * (weight.ndim - 2)) * 0.2
        flat += [up.half(), (torch.randn(rank, *weight.shape[1:]) * 0.2).half()]
    return flat


@pytest.fixture
def longsd(pipe, tmp_path):
    """A converted folder with two LoRAs and an adapter."""
    pipe.unet.save_config(tmp_path / "unet")
    for name, seed in (("align", 1), ("reward", 2)):
        torch.save(random_list(pipe.unet, seed), tmp_path / f"{name}.pt")
    t5_branch()["adapter"].save_pretrained(tmp_path / "adapter")
    arguments = ["--unet", "unet", "--align", "align.pt", "--reward", "reward.pt", "--adapter", "adapter"]
    arguments = [part if part.startswith("--") else str(tmp_path / part) for part in arguments]
    convert_main([*arguments, "--out", str(tmp_path / "longsd")])
    return tmp_path / "longsd"


def test_painting_is_reproducible_and_listens_to_every_sentence(full):
    first = paint(full)
    assert first.shape == (1, 3, 64, 64) and torch.equal(first, paint(full))
    assert not torch.equal(first, paint(full, PROMPT.replace("large", "small")))
    assert not torch.equal(first, paint(full, seed=1))


def test_the_block_is_clip_rows_then_t5_rows(full):
    embeds, negative = full.encode_prompt(PROMPT, None, 2, True)
    assert embeds.shape == negative.shape == (2, 480, 16)
    clip, t5 = full.plans[0]
    assert (clip.encoder, t5.encoder) == ("clip", "t5") and len(clip.segments) == 3 and len(t5.segments) == 1
    assert clip.dropped_tokens == t5.dropped_tokens == 0
    assert full.negative_plans[0][0].used == 1 and full.negative_plans[0][1].used == 1
    tail = embeds[0, clip.used : 240]
    assert torch.equal(tail, tail[:1].expand_as(tail)) and torch.equal(tail[0], negative[0, 1])


def test_pictures_of_a_batch_are_those_painted_alone(full):
    prompts = [PROMPT, "a cat"]
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    both = full(prompts, generator=generators, num_inference_steps=2, output_type="pt").images
    torch.testing.assert_close(both[:1], paint(full), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:], paint(full, "a cat", 1), rtol=1e-4, atol=1e-4)


def test_negative_prompts_may_be_long_and_shared(pipe):
    plain = paint(pipe)
    long = paint(pipe, negative_prompt="A dark picture. It is far. " * 30)
    assert not torch.equal(plain, long) and pipe.negative_plans[0][0].rows == pipe.plans[0][0].rows > 240
    two = pipe([PROMPT, PROMPT], negative_prompt="dark", num_inference_steps=1, output_type="pt").images
    assert two.shape[0] == 2


def test_outputs_callbacks_and_interruption(pipe):
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, tuple(tensors["prompt_embeds"].shape)))
        pipeline._interrupt = step == 1
        return tensors

    pipe(
        PROMPT, num_inference_steps=4, callback_on_step_end=watch, output_type="latent",
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )  # fmt: skip
    assert [step for step, _ in seen] == [0, 1] and seen[0][1] == (2, 240, 16)
    (images, _) = pipe(PROMPT, num_inference_steps=1, return_dict=False)
    assert images[0].size == (64, 64)


def test_ready_embeddings_are_taken(pipe):
    embeds, negative = pipe.encode_prompt(PROMPT, None, 1, True)
    given = paint(pipe, None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert torch.equal(given, paint(pipe))
    assert torch.equal(given, paint(pipe, None, prompt_embeds=embeds))
    with pytest.raises(ValueError, match="must be alike"):
        paint(pipe, None, prompt_embeds=embeds[:, :80])


def test_saving_keeps_everything(full, tmp_path):
    full.prompt_settings = PromptSettings(rows=160, overflow="merge", max_rows=800, weights=False)
    try:
        full.save_pretrained(tmp_path / "saved")
        loaded = quiet(LongAlignPipeline.from_pretrained(tmp_path / "saved"))
        assert loaded.prompt_settings == full.prompt_settings
        assert torch.equal(paint(loaded), paint(full))
    finally:
        full.prompt_settings = PromptSettings()


def test_a_stock_folder_loads_and_says_that_it_is_untrained(tmp_path):
    StableDiffusionPipeline(**sd_parts(), requires_safety_checker=False).save_pretrained(tmp_path)
    pipe = quiet(LongAlignPipeline.from_pretrained(tmp_path))
    assert "training-free" in pipe.note and paint(pipe).shape == (1, 3, 64, 64)


def test_half_of_the_t5_branch_is_refused():
    branch = t5_branch()
    del branch["adapter"]
    with pytest.raises(ValueError, match="adapter"):
        LongAlignPipeline(**sd_parts(), **branch, requires_safety_checker=False)
    with pytest.raises(ValueError, match="mode is 'strange'"):
        LongAlignPipeline(**sd_parts(), segment_mode="strange", requires_safety_checker=False)


def test_longsd_files_become_a_folder_and_come_back(pipe, longsd):
    assert LongAlignParts.read(longsd) == LongAlignParts("official", 240, ("align", "reward"))
    flat = list_from_named(read_lora(longsd, "align"), pipe.unet)
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(flat, random_list(pipe.unet, 1), strict=True)
    )


def test_lora_strengths_and_merging(longsd):
    def build(**options):
        torch.manual_seed(0)
        branch = {**t5_branch(), "adapter": t5_branch()["adapter"]}
        built = quiet(LongAlignPipeline(**sd_parts(), **branch, requires_safety_checker=False))
        if options:
            built.load_longalign(longsd, **options)
        return built

    plain = paint(build())
    apart, merged = (
        build(strengths={"align": 1.0, "reward": 0.5}),
        build(strengths={"align": 1.0, "reward": 0.5}, merge=True),
    )
    assert apart.note.startswith("LongAlign weights (align, reward)")
    assert apart.prompt_settings.mode == "official" and apart.prompt_settings.overflow == "truncate"
    with_both = paint(apart)
    assert not torch.allclose(with_both, plain, atol=1e-3)
    torch.testing.assert_close(with_both, paint(merged), rtol=1e-3, atol=1e-4)
    apart.set_strengths(align=0.0, reward=0.0)
    official = build()
    official.prompt_settings = apart.prompt_settings
    torch.testing.assert_close(paint(apart), paint(official), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="can be set"):
        apart.set_strengths(lcm=1.0)
    with pytest.raises(ValueError, match=r"no LoRA \['lcm'\]"):
        build(strengths={"lcm": 1.0})


def test_a_list_for_another_unet_is_refused(pipe, tmp_path):
    other = UNet2DConditionModel.from_config({**pipe.unet.config, "block_out_channels": (8, 24)})
    other.save_config(tmp_path / "unet")
    torch.save(random_list(pipe.unet), tmp_path / "align.pt")
    arguments = ["--unet", str(tmp_path / "unet"), "--align", str(tmp_path / "align.pt")]
    with pytest.raises(ValueError, match="entry .* has the shapes"):
        convert_main([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_without_an_index_is_refused(pipe, tmp_path):
    with pytest.raises(ValueError, match="not a LongAlign folder"):
        pipe.load_longalign(tmp_path)
    (tmp_path / "longalign.json").write_text(json.dumps({"mode": "smart", "rows": 240, "loras": ["odd"]}))
    with pytest.raises(ValueError, match="odd"):
        pipe.load_longalign(tmp_path)


def test_four_steps_stand_where_the_recipes_train(pipe):
    before = pipe.scheduler
    try:
        pipe.use_few_steps()
        pipe.scheduler.set_timesteps(4)
        assert pipe.scheduler.timesteps.tolist() == [999, 749, 499, 249]
        assert paint(pipe, num_inference_steps=4, guidance_scale=0.0).isfinite().all()
    finally:
        pipe.scheduler = before


def test_clip_skip_takes_an_earlier_layer(pipe):
    last, _ = pipe.encode_prompt(PROMPT, None, 1, False)
    skipped, _ = pipe.encode_prompt(PROMPT, None, 1, False, clip_skip=1)
    assert last.shape == skipped.shape and not torch.allclose(last, skipped, atol=1e-2)
