"""Tiles normalised by the statistics of the whole picture."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.scale_dit.shared_norm import REFERENCE, shared_encoder_statistics, shared_statistics


@pytest.fixture(scope="module")
def vae(build_vae):
    torch.manual_seed(5)
    return build_vae().eval()


@pytest.fixture(scope="module")
def latents():
    """A quiet left half and a lively right half."""
    coarse = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(4))
    coarse[..., :4] *= 0.05
    return F.interpolate(coarse, size=(REFERENCE * 3 // 4, REFERENCE), mode="bicubic")


@torch.no_grad()
def test_the_whole_keeps_its_own_statistics(vae, latents):
    whole = vae.decode(latents).sample
    with shared_statistics(vae, latents):
        shared = vae.decode(latents).sample
    torch.testing.assert_close(shared, whole, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_quiet_tile_looks_as_it_does_in_the_whole(vae, latents):
    whole = vae.decode(latents).sample
    tile = latents[..., :24]
    alone = vae.decode(tile).sample
    with shared_statistics(vae, latents):
        shared = vae.decode(tile).sample
    inside = (..., slice(64, -64), slice(64, 128))  # away from the tile's zero padding
    errors = [(picture[inside] - whole[inside]).abs().mean() for picture in (shared, alone)]
    assert errors[0] < 0.2 * errors[1]


@torch.no_grad()
def test_every_picture_of_a_batch_has_its_own_statistics(vae, latents):
    both = torch.cat([latents, 2 * latents.flip(3)])
    with shared_statistics(vae, both):
        together = vae.decode(both[..., :24]).sample
    for row in range(2):
        with shared_statistics(vae, both[row : row + 1]):
            alone = vae.decode(both[row : row + 1, ..., :24]).sample
        torch.testing.assert_close(together[row], alone[0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_quiet_tile_is_encoded_as_in_the_whole(vae):
    coarse = torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(4))
    coarse[..., :4] *= 0.05
    picture = F.interpolate(coarse, size=(384, 8 * REFERENCE), mode="bicubic")
    whole = vae.encode(picture).latent_dist.mode()
    tile = picture[..., :192]
    alone = vae.encode(tile).latent_dist.mode()
    with shared_encoder_statistics(vae, picture):
        shared = vae.encode(tile).latent_dist.mode()
    inside = (..., slice(8, -8), slice(8, 16))  # away from the tile's zero padding
    errors = [(latents[inside] - whole[inside]).abs().mean() for latents in (shared, alone)]
    assert errors[0] < 0.2 * errors[1]


@torch.no_grad()
def test_nothing_stays_behind_also_after_an_error(vae, latents):
    before = vae.decode(latents).sample
    with pytest.raises(RuntimeError, match="stop"), shared_statistics(vae, latents):
        raise RuntimeError("stop")
    for module in vae.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert torch.equal(vae.decode(latents).sample, before)


@torch.no_grad()
def test_the_statistics_of_a_large_map_come_from_a_small_one(vae):
    large = torch.zeros(1, 4, 3 * REFERENCE, REFERENCE // 2)
    sizes = []
    handle = vae.decoder.conv_in.register_forward_hook(
        lambda _, inputs, __: sizes.append(inputs[0].shape[-2:])
    )
    try:
        with shared_statistics(vae, large):
            pass
    finally:
        handle.remove()
    assert sizes == [(REFERENCE, 11)]
