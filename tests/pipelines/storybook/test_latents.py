"""Latents of the stream: computed once, kept in a file, the same in every run."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from pipelines.storybook.dataset import to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.latents import GRID, TILE, LatentStream, encode
from pipelines.storybook.scene import SceneMix

EASY = SceneMix(counts=(1.0, 0.0, 0.0))


class CountingVAE(AutoencoderKL):
    """Storybook's latent shape at a tenth of the work; counts the pictures it encodes."""

    pictures = 0

    def encode(self, x, *rest, **options):
        self.pictures += len(x)
        return super().encode(x, *rest, **options)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return CountingVAE(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=16, norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()  # fmt: skip


def test_latents_are_those_of_the_drawings(vae, tmp_path):
    latents, entries = LatentStream(vae, tmp_path, 6, EASY, 1).batch(0, 2)
    assert latents.shape == (2, 1, 16, 16, 16) and latents.dtype == torch.float32
    drawn = [draw_scene(scene, TILE, TILE) for scene, view in entries if view is None]
    torch.testing.assert_close(latents[:, 0], encode(vae, to_tensor(drawn)), rtol=2e-3, atol=2e-3)


def test_a_slot_is_drawn_and_encoded_once_in_all_runs(vae, tmp_path):
    stream = LatentStream(vae, tmp_path, 6, EASY, 1)
    first, _ = stream.batch(0, 4)
    again, _ = stream.batch(6, 4)  # the stream begins anew after six samples
    assert vae.pictures == 4 and torch.equal(first, again)
    resumed, entries = LatentStream(vae, tmp_path, 6, EASY, 1).batch(2, 4)
    assert vae.pictures == 6 and torch.equal(resumed[:2], first[2:])
    assert [scene for scene, _ in entries] == [stream.scene(slot)[0] for slot in (2, 3, 4, 5)]


def test_views_hold_a_large_crop_and_its_guide(vae, tmp_path):
    stream = LatentStream(vae, tmp_path, 3, EASY, 2, views=True)
    latents, entries = stream.batch(0, 3)
    assert latents.shape == (3, 2, 16, 16, 16) and vae.pictures == 6
    for row, (scene, view) in enumerate(entries):
        for part, (side, (down, across)) in enumerate(((view.side, view.at), (view.low_side, view.low_at))):
            crop = (across * 16, down * 16, TILE, TILE)
            drawn = draw_scene(scene, side * 16, side * 16, crop)
            expected = encode(vae, to_tensor([drawn]))[0]
            torch.testing.assert_close(latents[row, part], expected, rtol=2e-3, atol=2e-3)


def test_streams_of_other_seeds_and_sizes_have_files_of_their_own(vae, tmp_path):
    for seed, size, views in ((1, 6, False), (2, 6, False), (1, 7, False), (1, 6, True)):
        LatentStream(vae, tmp_path, size, EASY, seed, views)
    files = list(tmp_path.iterdir())
    assert len(files) == 4
    assert all(np.load(file, mmap_mode="r").dtype == np.float16 for file in files)


def test_encoding_gives_means_on_the_cpu(vae):
    x = torch.rand(2, 3, TILE, TILE) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(x).latent_dist.mean
    latents = encode(vae, x)
    assert latents.shape == (2, 16, GRID * 2, GRID * 2) and not latents.requires_grad
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
