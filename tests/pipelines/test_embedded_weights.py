"""The weights in assets/weights do what the manifest says, through our classes and stock diffusers."""

import json
from pathlib import Path

import pytest
import torch

WEIGHTS = Path(__file__).parents[2] / "assets" / "weights"
FLUX = WEIGHTS / "storybook-flux"

pytestmark = pytest.mark.skipif(not FLUX.exists(), reason="this checkout carries no weights")


@pytest.fixture(scope="module")
def stock():
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(FLUX)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_stock_diffusers_loads_and_paints(stock):
    image = stock(
        "a red ball in a meadow",
        height=128,
        width=128,
        num_inference_steps=2,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    assert image.shape == (1, 3, 128, 128)
    assert torch.isfinite(image).all() and image.std() > 0.02


def test_two_prompts_give_two_conditions(stock):
    with torch.no_grad():
        red, pooled_red, _ = stock.encode_prompt("a red ball", None, max_sequence_length=24)
        blue, pooled_blue, _ = stock.encode_prompt("a blue house", None, max_sequence_length=24)
    assert (pooled_red - pooled_blue).abs().max() > 0.1
    assert (red - blue).abs().max() > 0.1


def test_padding_of_24_and_of_512_gives_like_pictures(stock):
    """Far more alike than pictures of two seeds, though nothing masks the padding."""

    def paint(length: int, seed: int) -> torch.Tensor:
        with torch.no_grad():
            return stock(
                "a blue car on a beach", height=128, width=128, num_inference_steps=6, true_cfg_scale=4.0,
                negative_prompt="", max_sequence_length=length, output_type="pt",
                generator=torch.Generator().manual_seed(seed),
            ).images  # fmt: skip

    short, long, other = paint(24, 0), paint(512, 0), paint(24, 1)
    assert (long - short).abs().mean() < 0.5 * (other - short).abs().mean()


def test_stock_diffusers_paints_with_storybook_sd():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS / "storybook-sd")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a red ball in a meadow", height=128, width=128, num_inference_steps=3, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert image.shape == (1, 3, 128, 128) and torch.isfinite(image).all() and image.std() > 0.02


def test_the_same_seed_gives_the_same_pixels():
    from pipelines.compose import painting

    model = painting.load_model(FLUX)

    def paint(seed: int) -> bytes:
        result = painting.paint(
            model, prompt="a red ball in a meadow", width=256, height=128, seed=seed, steps=4
        )
        assert result.image.size == (256, 128)
        return result.image.tobytes()

    first = paint(1)
    assert paint(1) == first
    assert paint(2) != first


def test_unknown_words_are_named():
    from pipelines.storybook.vocabulary import unknown_words

    assert unknown_words("an astronaut riding a horse") == ["astronaut", "riding", "horse"]


@pytest.mark.parametrize("name", ["eyes", "judge"])
def test_detectors_see_fresh_drawings(name):
    """A quick look at what the manifest reports on hundreds: 30 drawings of a seed of their own."""
    from PIL import Image

    from pipelines.storybook import detector
    from pipelines.storybook.dataset import sample_rng
    from pipelines.storybook.draw import draw_scene
    from pipelines.storybook.scene import SceneMix, sample_scene

    folder = WEIGHTS / f"storybook-{name}"
    if not folder.exists():
        pytest.skip(f"this checkout carries no storybook-{name}")
    model = getattr(detector, f"Storybook{name.capitalize()}").from_pretrained(folder).eval()
    mix = SceneMix(counts=(1.0, 0.0, 0.0), sized=0.0)
    scenes = [sample_scene(sample_rng(555, index), mix) for index in range(30)]
    seen = detector.detect(model, [Image.fromarray(draw_scene(scene, 128, 128)) for scene in scenes])
    right = [
        any(
            (item.kind, item.colour) == (scene.objects[0].kind, scene.objects[0].colour)
            for item in found.objects
        )
        and found.place == scene.place
        for scene, found in zip(scenes, seen, strict=True)
    ]
    assert sum(right) >= 27


def shares_of(table, path=()):
    """(path, share) of every measured share in an entry."""
    for key, value in table.items():
        if isinstance(value, dict) and "ci95" in value:
            yield (*path, key), value
        elif isinstance(value, dict):
            yield from shares_of(value, (*path, key))


def test_the_manifest_reports_measured_figures():
    models = json.loads((WEIGHTS / "MANIFEST.json").read_text())["models"]
    shares = dict(shares_of(models["storybook-flux"]["metrics"]))
    for kind, figure in (("one_object", "kind_and_colour"), ("two_objects", "present")):
        for part in ("seen", "held_out"):
            share = shares[kind, part, figure]
            assert share["n"] >= 50 and 0.0 <= share["ci95"][0] <= share["value"] <= share["ci95"][1] <= 1.0


def test_every_model_has_a_card_with_the_manifests_own_figures():
    from pipelines.storybook.cards import CARD, card

    for name, entry in json.loads((WEIGHTS / "MANIFEST.json").read_text())["models"].items():
        text = (WEIGHTS / entry["folder"] / CARD).read_text(encoding="utf-8")
        assert text == card(name, entry)
        for part in ("## Data", "## Training", "## Measured", "## Limits", "## Licence"):
            assert part in text
