"""First stages by Stable Diffusion, and what enlarges them."""

import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.compose import painting, sketching
from pipelines.compose.forecast import count_work, forecast
from pipelines.compose.painting import Cancelled, load_model, paint
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
        PROMPT, height=64, width=64, num_inference_steps=2, guidance_scale=sketching.GUIDANCE,
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


def test_a_damaged_folder_is_refused(weights, tmp_path):
    broken = shutil.copytree(weights / "mine", tmp_path / "broken")
    (broken / "unet" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a Stable Diffusion model folder"):
        forecast(broken, 64, 64)
    assert not sketching.sketches(tmp_path) and not sketching.sketches(weights / sketching.ENLARGER)
