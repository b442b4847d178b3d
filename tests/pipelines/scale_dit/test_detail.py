"""Instruments of detail: spectrum, textures and seams tell right pictures from blurred, noisy, torn ones."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.scale_dit.detail import (
    OCTAVES,
    DetailMeter,
    detail_scenes,
    evaluate_detail,
    ground_crops,
    octave_energies,
    spectrum_factor,
)
from pipelines.scale_dit.evaluate_detail import CropSheet, compare_orders, figures
from pipelines.scale_dit.seams import measure_seams
from pipelines.scale_dit.texture import CROP, TextureClassifier, classify
from pipelines.scale_dit.tiles import tile_starts
from pipelines.scale_dit.train_texture import NONE, TEXTURES, blur, draw_sample
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.draw import draw_scene

WEIGHTS = Path(__file__).parents[3] / "assets/weights/storybook-texture"


def noise(side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 0.1 * torch.randn(1, side, side, generator=generator).expand(3, -1, -1)


def test_octaves_of_white_noise_are_as_large_as_their_rings():
    energies = octave_energies(noise(512))
    assert energies.shape == (OCTAVES,) and energies.dtype == torch.float64
    expected = 4.0 ** -torch.arange(OCTAVES, dtype=torch.float64)  # a ring's area falls by 4 per octave
    inner = energies[1:] / energies[1]
    torch.testing.assert_close(inner, expected[:-1], rtol=0.25, atol=0)


def test_a_sine_lies_in_its_octave():
    for octave, period in ((0, 3), (1, 6), (3, 24)):
        wave = torch.sin(2 * torch.pi * torch.arange(512.0) / period).expand(3, 512, -1)
        assert octave_energies(0.5 + 0.1 * wave).argmax() == octave


def test_the_factor_has_two_sides():
    assert spectrum_factor([1.0, 0.5, 1.5]) == 2.0 and spectrum_factor([1.0, 3.0]) == 3.0
    assert spectrum_factor([1.0]) == 1.0


def test_ground_crops_lie_low_and_avoid_objects():
    picture = torch.arange(1024.0)[:, None].expand(3, -1, 1024) / 1024
    crops = ground_crops(picture, [(0.0, 0.5, 0.6, 1.0)])
    assert len(crops) > 3 and all(crop.shape == (3, CROP, CROP) for crop in crops)
    assert all(crop[0, 0, 0] >= 0.74 - 1 / 1024 for crop in crops)
    assert ground_crops(picture, [(0.0, 0.0, 1.0, 1.0)]) == []


@pytest.mark.parametrize("fault", ["step", "blur"])
def test_a_seam_is_found_where_it_is(fault):
    side = 1024
    random = noise(side, 3)
    smooth = (random + random.roll(1, 1) + random.roll(1, 2) + random.roll((1, 1), (1, 2))) / 4
    assert measure_seams(smooth).ratio < 1.15
    start = tile_starts(side // 8)[1] * 8
    torn = smooth.clone()
    if fault == "step":
        torn[:, :, start:] += 0.06
    else:
        torn[:, :, start : start + 96] = blur(smooth[:1, :, start : start + 96], 2.0)
    seams = measure_seams(torn.clamp(0, 1))
    assert seams.worst > 1.3 and (seams.column, seams.row) == (start, None)


def test_small_pictures_have_no_seams():
    assert measure_seams(noise(256)).ratio == 1.0


@pytest.fixture(scope="module")
def classifier():
    return TextureClassifier.from_pretrained(WEIGHTS).eval()


def test_the_published_classifier_knows_textures_from_their_absence(classifier):
    answers = []
    for index in range(24):
        picture, label = draw_sample(sample_rng(4711, index))
        crop = picture[:, :CROP, :CROP].expand(3, -1, -1)
        answers.append((classify(classifier, [crop])[0], TEXTURES[label]))
    assert sum(given == wanted for given, wanted in answers) >= 22
    assert {wanted for _, wanted in answers} > {TEXTURES[NONE]}


def test_drawings_pass_and_enlargements_do_not(classifier):
    def paint(prompt, side, seed):
        scene = next(scene for scene, text in detail_scenes(2) if text == prompt)
        return Image.fromarray(draw_scene(scene, side, side))

    sheet = CropSheet()
    details = evaluate_detail(paint, classifier, 2, side=1024, show=sheet.add)
    assert sheet.columns == ["enlarged", "painted", "drawn"] and sheet.sheet().size == (
        3 * CROP,
        20 + 2 * 276,
    )
    assert details["painted"].spectrum == details["drawn"].spectrum == 1.0
    assert details["enlarged"].spectrum > 2.0 and details["enlarged"].octaves[0] < 0.5
    table = figures(details["painted"], 2)
    assert table["spectrum"]["value"] == 1.0 and 0 <= table["texture"]["value"] <= 1
    assert table["spectrum"]["ci95"] == [1.0, 1.0] and len(table["texture"]["ci95"]) == 2
    low, high = details["enlarged"].intervals["octave_1"]
    assert low <= details["enlarged"].octaves[0] <= high < 0.5


def test_intervals_come_from_pictures_drawn_anew(classifier):
    """Of two pictures a quarter of the draws takes one twice: the ends are the single pictures' figures."""
    drawings = [Image.fromarray(draw_scene(scene, 256, 256)) for scene, _ in detail_scenes(2)]
    soft = [drawings[0].resize((128, 128)).resize((256, 256)), drawings[1]]  # only the first is off
    meter, single = DetailMeter(classifier), DetailMeter(classifier)
    for ours, truth in zip(soft, drawings, strict=True):
        meter.add(ours, truth, "meadow")
    single.add(soft[0], drawings[0], "meadow")
    result, alone = meter.result(), single.result()
    assert result.intervals["octave_1"] == pytest.approx((alone.octaves[0], 1.0))
    assert result.intervals["spectrum"] == pytest.approx((1.0, alone.spectrum))
    assert alone.intervals == {} and "ci95" not in figures(alone, 1)["spectrum"]


def test_a_picture_and_its_drawing_have_one_size(classifier):
    rng = np.random.default_rng(Random(1).getrandbits(16))
    small, large = (Image.fromarray(rng.integers(0, 255, (s, s, 3), dtype=np.uint8)) for s in (256, 512))
    with pytest.raises(ValueError, match="the picture is .3, 256, 256., its drawing .3, 512, 512."):
        DetailMeter(classifier).add(small, large, "meadow")


def test_a_sheet_shows_the_same_place_of_every_version_pixel_for_pixel():
    rng = np.random.default_rng(3)
    versions = {
        name: Image.fromarray(rng.integers(0, 255, (512, 512, 3), dtype=np.uint8))
        for name in ("ours", "other")
    }
    sheet = CropSheet()
    sheet.add("a red ball", versions)
    shown = np.asarray(sheet.sheet())
    for column, picture in enumerate(versions.values()):
        cell = shown[20 : 20 + CROP, column * CROP : (column + 1) * CROP]
        assert np.array_equal(cell, np.asarray(picture)[256:, 128 : 128 + CROP])


def test_the_order_of_tokens_changes_nothing_but_rounding(pipeline):
    table = compare_orders(pipeline, "a red ball", 640)  # 1,600 tokens: local attention
    assert table["largest_difference"]["value"] <= 1 and table["mean_difference"]["value"] < 0.01
    assert table["hilbert_seconds"]["value"] > 0 < table["raster_seconds"]["value"]
