"""Latents of the stream: computed once, kept in a file, the same in every run."""

import numpy as np
import torch

from pipelines.storybook.dataset import to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.latents import GRID, TILE, LatentStream, encode
from pipelines.storybook.scene import SceneMix

EASY = SceneMix(counts=(1.0, 0.0, 0.0))


def test_latents_are_those_of_the_drawings(counting_vae, tmp_path):
    latents, entries = LatentStream(counting_vae, tmp_path, 6, EASY, 1).batch(0, 2)
    assert latents.shape == (2, 1, 16, 16, 16) and latents.dtype == torch.float32
    drawn = [draw_scene(scene, TILE, TILE) for scene, view in entries if view is None]
    torch.testing.assert_close(latents[:, 0], encode(counting_vae, to_tensor(drawn)), rtol=2e-3, atol=2e-3)


def test_a_slot_is_drawn_and_encoded_once_in_all_runs(counting_vae, tmp_path):
    stream = LatentStream(counting_vae, tmp_path, 6, EASY, 1)
    first, _ = stream.batch(0, 4)
    again, _ = stream.batch(6, 4)  # the stream begins anew after six samples
    assert counting_vae.pictures == 4 and torch.equal(first, again)
    resumed, entries = LatentStream(counting_vae, tmp_path, 6, EASY, 1).batch(2, 4)
    assert counting_vae.pictures == 6 and torch.equal(resumed[:2], first[2:])
    assert [scene for scene, _ in entries] == [stream.scene(slot)[0] for slot in (2, 3, 4, 5)]


def test_views_hold_a_large_crop_and_its_guide(counting_vae, tmp_path):
    stream = LatentStream(counting_vae, tmp_path, 3, EASY, 2, views=True)
    latents, entries = stream.batch(0, 3)
    assert latents.shape == (3, 2, 16, 16, 16) and counting_vae.pictures == 6
    for row, (scene, view) in enumerate(entries):
        for part, (side, (down, across)) in enumerate(((view.side, view.at), (view.low_side, view.low_at))):
            crop = (across * 16, down * 16, TILE, TILE)
            drawn = draw_scene(scene, side * 16, side * 16, crop)
            expected = encode(counting_vae, to_tensor([drawn]))[0]
            torch.testing.assert_close(latents[row, part], expected, rtol=2e-3, atol=2e-3)


def test_streams_of_other_seeds_and_sizes_have_files_of_their_own(counting_vae, tmp_path):
    for seed, size, views in ((1, 6, False), (2, 6, False), (1, 7, False), (1, 6, True)):
        LatentStream(counting_vae, tmp_path, size, EASY, seed, views)
    files = list(tmp_path.iterdir())
    assert len(files) == 4
    assert all(np.load(file, mmap_mode="r").dtype == np.float16 for file in files)


def test_encoding_gives_means_on_the_cpu(counting_vae):
    x = torch.rand(2, 3, TILE, TILE) * 2 - 1
    with torch.no_grad():
        expected = counting_vae.encode(x).latent_dist.mean
    latents = encode(counting_vae, x)
    assert latents.shape == (2, 16, GRID * 2, GRID * 2) and not latents.requires_grad
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
