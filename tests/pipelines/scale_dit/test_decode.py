"""Tiled decoding and encoding: they cover, they blend, they can be watched and stopped."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipelines.scale_dit.decode import decode_tiled, encode_tiled, enlarge_pixels
from pipelines.scale_dit.tiles import OVERLAP, TILE, count_tiles, tile_starts


@given(length=st.integers(1, 2000), tile=st.integers(10, 80), overlap=st.integers(0, 9))
def test_tiles_cover_everything_and_overlap_enough(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert starts[-1] + tile >= length and (starts[-1] + tile == length or length < tile)
    gaps = {after - before for before, after in zip(starts, starts[1:], strict=False)}
    assert all(gap <= tile - overlap for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1  # evenly spread


def test_tiles_of_a_map_are_counted():
    assert count_tiles(TILE, TILE) == 1
    assert count_tiles(TILE + 1, TILE) == 2
    assert count_tiles(512, 512) == 81
    assert all(count_tiles(side, 8) == len(tile_starts(side)) for side in range(1, 400))


@pytest.fixture(scope="module")
def vae(build_vae):
    torch.manual_seed(5)
    return build_vae().eval()


def smooth_latents(height, width):
    coarse = torch.randn(1, 4, height // 16, width // 16, generator=torch.Generator().manual_seed(4))
    return F.interpolate(coarse, size=(height, width), mode="bicubic")


@torch.no_grad()
def test_a_single_tile_is_the_plain_decode(vae):
    latents = smooth_latents(48, 32)
    expected = vae.decode(latents).sample.clamp(-1, 1)
    torch.testing.assert_close(decode_tiled(vae, latents), expected, rtol=0, atol=1e-3)  # other memory layout


@torch.no_grad()
def test_blending_gives_every_pixel_the_weight_one(vae):
    """Without the outer taps of its kernels a decoder knows no borders: a constant map stays constant."""
    pointwise = copy.deepcopy(vae)
    for module in pointwise.decoder.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            centre = module.weight[:, :, 1:2, 1:2].clone()
            module.weight.zero_()[:, :, 1:2, 1:2] = centre
    picture = decode_tiled(pointwise, torch.full((1, 4, 80, 72), 0.3))
    assert picture.shape == (1, 3, 640, 576) and picture.abs().mean() > 0.01
    assert (picture.amax((2, 3)) - picture.amin((2, 3))).max() < 1e-4


@torch.no_grad()
def test_tile_borders_show_no_more_than_the_inside(vae):
    latents = smooth_latents(96, 96)
    whole = vae.decode(latents).sample.clamp(-1, 1)
    difference = (decode_tiled(vae, latents) - whole).abs().mean((0, 1))
    blended = torch.zeros(768, dtype=torch.bool)
    for start in tile_starts(96)[1:]:
        blended[start * 8 - OVERLAP * 8 : start * 8 + OVERLAP * 16] = True
    at_borders = blended[:, None] | blended[None]
    assert difference[at_borders].mean() <= 1.5 * difference[~at_borders].mean()


def test_there_is_no_seam_where_tiles_meet(vae):
    """Steps between neighbouring pixels across a tile's border are no larger than elsewhere."""
    picture = decode_tiled(vae, smooth_latents(96, 64))
    steps = picture.diff(dim=2).abs().mean((0, 1, 3))  # between row i and row i + 1
    starts = tile_starts(96)[1:]
    meeting = [edge for start in starts for edge in (start * 8 - 1, start * 8 + OVERLAP * 8 - 1)]
    assert max(float(steps[edge]) for edge in meeting) < 1.5 * float(steps.quantile(0.95))


def test_pictures_of_a_batch_are_decoded_like_single_ones(vae):
    latents = torch.cat([smooth_latents(80, 16), -smooth_latents(80, 16)])
    both = decode_tiled(vae, latents)
    torch.testing.assert_close(both[1:], decode_tiled(vae, latents[1:]), rtol=1e-4, atol=1e-4)


def test_tiles_are_reported_and_decoding_stops_when_told(vae):
    seen = []

    def watch(done, tiles):
        seen.append((done, tiles))
        return done == 2

    assert decode_tiled(vae, torch.zeros(1, 4, 72, 72), watch) is None
    assert seen == [(1, 4), (2, 4)]
    seen.clear()
    assert decode_tiled(vae, torch.zeros(1, 4, 72, 16), lambda *tile: seen.append(tile)) is not None
    assert seen == [(1, 2), (2, 2)]


def smooth_picture(height, width):
    coarse = torch.randn(1, 3, height // 64, width // 64, generator=torch.Generator().manual_seed(6))
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def test_tiled_encoding_is_the_plain_encoding_up_to_what_tiles_do_not_see(vae):
    small = smooth_picture(384, 256)
    expected = vae.encode(small).latent_dist.mode()
    torch.testing.assert_close(encode_tiled(vae, small), expected, rtol=0, atol=1e-3)  # other memory layout
    large = smooth_picture(768, 640)
    whole, tiled = vae.encode(large).latent_dist.mode(), encode_tiled(vae, large)
    assert tiled.shape == whole.shape == (1, 4, 96, 80)
    assert (tiled - whole).abs().mean() < 0.15 * whole.std()


def test_encoding_is_reported_and_stops_when_told(vae):
    seen = []

    def watch(done, tiles):
        seen.append((done, tiles))
        return done == 2

    assert encode_tiled(vae, torch.zeros(1, 3, 576, 576), watch) is None
    assert seen == [(1, 4), (2, 4)]


def test_pixels_are_enlarged_within_their_range_and_sharpened_at_edges_only():
    edge = torch.full((1, 3, 32, 32), -0.5)
    edge[..., 16:] = 0.5
    plain, sharp = (enlarge_pixels(edge, (96, 96), sharpen) for sharpen in (False, True))
    assert plain.shape == sharp.shape == (1, 3, 96, 96)
    assert (sharp - plain)[..., :24].abs().max() < 1e-6
    assert sharp.diff(dim=3).amax() > 1.05 * plain.diff(dim=3).amax()
    assert enlarge_pixels(edge * 4, (96, 96), True).abs().max() <= 1
