"""First stages by Stable Diffusion, and what enlarges them."""

import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.compass.support import adapter_scales
from pipelines.compose import painting, sketching
from pipelines.compose.forecast import count_work, forecast
from pipelines.compose.painting import Cancelled, load_model, paint
from pipelines.longalign.lora import lora_config
from pipelines.longalign.parts import LORA_NAMES, LongAlignParts, write_lora
from tests.pipelines.longalign.conftest import sd_parts

PROMPT = "a red ball in a meadow"


@pytest.fixture(scope="module")
def weights(saved_folder, tmp_path_factory):
    """A tiny Stable Diffusion model and, beside it, the transformer that enlarges."""
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("weights")
    StableDiffusionPipeline(**sd_parts(), requires_safety_checker=False).save_pretrained(
        folder / "storybook-small"
    )
    shutil.copytree(saved_folder, folder / sketching.ENLARGER)
    shutil.copytree(folder / "storybook-small", folder / "mine")
    return folder


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights / "storybook-small")


def run(model, **options):
    return paint(model, **{"prompt": PROMPT, "width": 256, "height": 128, "seed": 1, "steps": 2, **options})


def pixels(painted):
    return np.asarray(painted.image)


def test_a_sketch_is_enlarged_by_the_model_beside_it(model, weights, monkeypatch):
    monkeypatch.setattr(painting, "PREVIEW_EVERY_S", math.inf)  # a slow machine would show some
    news = []
    painted = run(model, on_progress=news.append)
    assert painted.image.size == (256, 128) and painted.stages == ((96, 48 + 16), (256, 128))
    assert list(painted.seconds) == ["stage 1", "encode", "enlarge", "stage 2", "decode"]
    marks = [(item.phase, item.stage, item.step) for item in news]
    assert marks[:4] == [("encode", 1, 0), ("paint", 1, 1), ("paint", 1, 2), ("paint", 1, 2)]
    assert news[3].preview.size == (96, 64) and [item.preview for item in news[:3]] == [None] * 3
    fractions = [item.fraction for item in news]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert forecast(weights / "storybook-small", 256, 128).stages == painted.stages


def test_the_same_seed_gives_the_same_pixels(model):
    assert np.array_equal(pixels(run(model)), pixels(run(model)))
    assert not np.array_equal(pixels(run(model)), pixels(run(model, seed=2)))


def test_the_picture_is_what_the_sketch_shows(model, monkeypatch):
    """What the UNet paints, not noise of its own, is what the transformer enlarges."""
    flat = {}
    for level in (30, 220):
        picture = Image.new("RGB", (96, 64), (level, level, level))
        monkeypatch.setattr(painting, "sketch", lambda *_, picture=picture: picture)
        flat[level] = pixels(run(model))
    assert not np.array_equal(flat[30], flat[220])


def test_a_small_picture_is_the_sketch_itself(model):
    painted = run(model, width=64, height=64)
    assert painted.stages == ((64, 64),) and list(painted.seconds) == ["stage 1"]


def test_short_prompts_are_read_as_in_training_and_long_ones_whole(model):
    from diffusers import StableDiffusionPipeline

    stock = StableDiffusionPipeline.from_pipe(model.sketcher, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    asked = stock(
        PROMPT, height=64, width=64, num_inference_steps=2, guidance_scale=sketching.SD_GUIDANCE,
        generator=torch.Generator().manual_seed(1),
    ).images[0]  # fmt: skip
    assert np.array_equal(pixels(run(model, width=64, height=64)), np.asarray(asked))
    page = "a red cat on a beach. " * 60
    ball, dog = (
        run(model, prompt=page + end, width=64, height=64) for end in ("a blue ball.", "a black dog.")
    )
    assert not np.array_equal(pixels(ball), pixels(dog)) and ball.warnings == ()
    (warning,) = run(model, prompt="a red cat on a beach. " * 1200, width=64, height=64).warnings
    assert re.fullmatch(r"The last \d+ tokens of the prompt were not read: \d+ are the most.", warning)


def test_emphasis_changes_the_sketch_and_brackets_alone_are_text(model):
    small = {"width": 64, "height": 64}
    even, strong = (run(model, prompt=f"a (red:{weight}) ball BREAK a cat", **small) for weight in (1.0, 2))
    assert even.warnings == () and not np.array_equal(pixels(even), pixels(strong))
    plans = model.sketcher.plans
    assert [segment.text for segment in plans[0][0].segments] == ["a red ball.", "a cat."]
    run(model, prompt="a (red) ball", **small)
    assert model.sketcher.plans == ()  # read as in training


def test_a_prompt_is_cut_where_clip_ends(model):
    small = {"width": 64, "height": 64}
    page = "a red cat on a beach. " * 12
    cut = run(model, prompt=page, cut_prompt=True, **small)
    (warning,) = cut.warnings
    assert warning == "Only the first 75 of the prompt's 96 tokens were read, as it was asked for."
    assert model.sketcher.plans == () or len(model.sketcher.plans[0][0].segments) == 1  # read at once
    assert np.array_equal(pixels(cut), pixels(run(model, prompt=page[: 9 * 22 + 7], **small)))
    assert not np.array_equal(pixels(cut), pixels(run(model, prompt=page, **small)))


def test_what_was_painted_before_changes_no_bit_of_a_page(weights):
    page = "a red cat on a beach. a blue ball. " * 12
    small = {"width": 64, "height": 64}
    warm, cold = (load_model(weights / "mine") for _ in range(2))
    run(warm, prompt=page.replace("ball", "boat", 1) + "a tree.", **small)
    assert np.array_equal(pixels(run(warm, prompt=page, **small)), pixels(run(cold, prompt=page, **small)))


@pytest.mark.parametrize("asked", [1, 2, 3, 5])
def test_a_stop_is_heard(model, asked):
    questions = []

    def should_stop():
        questions.append(0)
        return len(questions) == asked

    with pytest.raises(Cancelled):
        run(model, should_stop=should_stop)
    assert len(questions) == asked


def test_alone_it_paints_small_pictures_only(weights):
    alone = load_model(weights / "mine")
    assert alone.pipeline is None and alone.composer is alone.sketcher
    assert run(alone, width=64, height=64).image.size == (64, 64)
    for action in (lambda: run(alone), lambda: forecast(weights / "mine", 256, 128)):
        with pytest.raises(ValueError, match="given 256x128, allowed about 64x64: nothing enlarges"):
            action()


def test_more_steps_of_the_sketch_cost_more(weights):
    first, second = (count_work(weights / "storybook-small", 256, 128, steps)[1] for steps in (10, 20))
    assert 2 * first.stages[0] == second.stages[0] > 0 and first.stages[1:] == second.stages[1:]


@pytest.fixture(scope="module")
def distilled(weights, tmp_path_factory):
    """The tiny model with random LoRAs of all of LongAlign's stages."""
    from peft import get_peft_model_state_dict

    folder = shutil.copytree(weights / "mine", tmp_path_factory.mktemp("distilled") / "mine")
    LongAlignParts("smart", 80, ()).write(folder / "longalign")
    generator = torch.Generator().manual_seed(0)
    for name in LORA_NAMES:
        unet = sd_parts()["unet"]
        unet.add_adapter(lora_config(unet, rank=2), adapter_name=name)
        state = get_peft_model_state_dict(unet, adapter_name=name)
        write_lora(
            folder / "longalign",
            name,
            {key: 0.2 * torch.randn(value.shape, generator=generator) for key, value in state.items()},
        )
    return folder


PAGE = f"{PROMPT}. " * 12


def stock(folder, loras, steps, *, few, prompt=PROMPT):
    """What LongAlign's own pipeline paints with these LoRAs."""
    from pipelines import LongAlignPipeline

    pipe = LongAlignPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    pipe.load_longalign(folder / "longalign", dict.fromkeys(loras, 1.0))
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.to(memory_format=torch.channels_last)
    if few:
        pipe.use_few_steps()
    seed = torch.Generator().manual_seed(1)
    return np.asarray(
        pipe(
            prompt, height=64, width=64, num_inference_steps=steps, generator=seed,
            guidance_scale=0.0 if few else sketching.SD_GUIDANCE,
        ).images[0]
    )  # fmt: skip


def test_few_steps_take_the_distilled_stages_and_more_the_full_ones(distilled):
    small = {"width": 64, "height": 64}
    model = load_model(distilled)
    full = run(model, prompt=PAGE, steps=9, **small)
    few, again = (run(model, prompt=PAGE, steps=4, **small) for _ in range(2))
    assert full.warnings == () and few.warnings == (painting.FEW_REMARK,)
    expected = stock(distilled, ("align", "lcm", "reward_lcm"), 4, few=True, prompt=PAGE)
    assert np.array_equal(pixels(few), expected)
    assert np.array_equal(pixels(few), pixels(again))
    # and afterwards everything is as it was
    assert np.array_equal(pixels(run(model, prompt=PAGE, steps=9, **small)), pixels(full))
    expected = stock(distilled, ("align", "reward"), 9, few=False, prompt=PAGE)
    assert np.array_equal(pixels(full), expected)
    work = {steps: count_work(distilled, 64, 64, steps)[1].stages[0] for steps in (8, 9)}
    assert work[9] / 9 == 2 * work[8] / 8


def test_a_short_prompt_is_painted_as_without_aligned_weights(distilled, weights):
    aligned, plain = load_model(distilled), load_model(weights / "mine")
    small = {"width": 64, "height": 64, "steps": 9}
    before = adapter_scales(aligned.sketcher.unet)
    for steps in (4, 9):
        short = run(aligned, **{**small, "steps": steps})
        assert np.array_equal(pixels(short), pixels(run(plain, **{**small, "steps": steps})))
        assert short.warnings == () and adapter_scales(aligned.sketcher.unet) == before
    page = {"prompt": PAGE, **small}
    assert not np.array_equal(pixels(run(aligned, **page)), pixels(run(plain, **page)))


def test_a_stopped_picture_of_few_steps_leaves_the_full_stages_behind(distilled):
    model = load_model(distilled)
    names = {"align": 1.0, "reward": 1.0, "lcm": 0.0, "reward_lcm": 0.0}
    assert adapter_scales(model.sketcher.unet) == names
    asked = iter([False, True])
    with pytest.raises(Cancelled):
        run(model, prompt=PAGE, steps=4, width=64, height=64, should_stop=lambda: next(asked, True))
    assert adapter_scales(model.sketcher.unet) == names
    assert type(model.sketcher.scheduler).__name__ == "DDIMScheduler"


def test_without_distilled_weights_few_steps_are_guided(distilled, tmp_path):
    folder = shutil.copytree(distilled, tmp_path / "mine")
    shutil.rmtree(folder / "longalign" / "lcm")
    shutil.rmtree(folder / "longalign" / "reward_lcm")
    LongAlignParts("smart", 80, ("align", "reward")).write(folder / "longalign")
    painted = run(load_model(folder), prompt=PAGE, steps=4, width=64, height=64)
    assert painted.warnings == () and not sketching.is_distilled(folder, 4)
    expected = stock(folder, ("align", "reward"), 4, few=False, prompt=PAGE)
    assert np.array_equal(pixels(painted), expected)


def test_a_damaged_folder_is_refused(weights, tmp_path):
    broken = shutil.copytree(weights / "mine", tmp_path / "broken")
    (broken / "unet" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a Stable Diffusion model folder"):
        forecast(broken, 64, 64)
    assert not sketching.sketches(tmp_path) and not sketching.sketches(weights / sketching.ENLARGER)
