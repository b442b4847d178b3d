"""The temporal decoder: at first the image decoder, then one that needs all frames of a clip."""

import pytest
import torch
from diffusers import AutoencoderKL

from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from tests.pipelines.vidrd.conftest import VAE, shake, tiny_video_vae


@pytest.fixture(scope="module")
def vae():
    return tiny_video_vae()


@torch.no_grad()
def test_an_image_autoencoder_is_taken_over_and_decodes_the_same_at_first():
    torch.manual_seed(0)
    image = shake(AutoencoderKL(**VAE), scale=0.02)
    video = VidRDAutoencoderKL.from_image_vae(image).eval()
    z = torch.randn(6, 4, 3, 4)
    expected = image.decode(z).sample
    for frames in (1, 2, 3, 6):
        torch.testing.assert_close(video.decode(z, num_frames=frames).sample, expected, rtol=1e-5, atol=1e-5)
    assert video.config.scaling_factor == 0.8 and video.config.add_temp_conv
    fresh = [name for name in video.state_dict() if name not in image.state_dict()]
    assert fresh and all(".temp_convs." in name for name in fresh)


@torch.no_grad()
def test_the_number_of_frames_matters(vae):
    z = torch.randn(6, 4, 3, 4)
    as_clips, as_pictures = (vae.decode(z, num_frames=frames).sample for frames in (3, 1))
    assert (as_clips - as_pictures).abs().max() > 1e-3
    torch.testing.assert_close(vae.decode(z[:3], num_frames=3).sample, as_clips[:3], rtol=1e-4, atol=1e-5)
    changed = z.clone()
    changed[5] += 1  # only the second clip feels it, and all of its frames do
    difference = (vae.decode(changed, num_frames=3).sample - as_clips).abs().amax((1, 2, 3))
    assert (difference[:3] < 1e-5).all() and (difference[3:] > 1e-5).all()


@torch.no_grad()
def test_slices_are_clips_and_tiles_hold_all_frames(vae):
    z = torch.randn(4, 4, 12, 10)
    whole = vae.decode(z, num_frames=2).sample
    vae.enable_slicing()
    torch.testing.assert_close(vae.decode(z, num_frames=2).sample, whole, rtol=1e-4, atol=1e-5)
    vae.disable_slicing()
    vae.enable_tiling()  # tiles of 8 latents
    tiled = vae.decode(z, num_frames=2).sample
    vae.disable_tiling()
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.3 * whole.std()  # norms see a tile, not the picture


@pytest.mark.parametrize(("count", "frames"), [(4, 3), (4, 0), (4, 8)])
def test_latents_must_be_whole_videos(vae, count, frames):
    with pytest.raises(ValueError, match=f"{count} latents are no whole number of videos of {frames} frames"):
        vae.decode(torch.zeros(count, 4, 2, 2), num_frames=frames)


def test_the_published_size_has_the_published_number_of_weights():
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
    }
    with torch.device("meta"):
        model = VidRDAutoencoderKL(**blocks)
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    assert sum(sizes.values()) == 100_059_495
    assert sum(n for name, n in sizes.items() if ".temp_convs." in name) == 16_405_632
    assert sum(n for name, n in sizes.items() if name.startswith("decoder.")) == 65_895_811
    assert "decoder.up_blocks.3.temp_convs.2.convs.11.weight" in sizes
