"""Attention losses by hand, and the recorder that gives them their maps."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.compass.grounding import (
    PIXEL_WEIGHT,
    TOKEN_WEIGHT,
    AttentionRecorder,
    attention_mask,
    find_words,
    grounding_loss,
    pixel_loss,
    token_loss,
    training_groups,
)
from pipelines.compass.tenor import install_tenor


def inputs():
    generator = torch.Generator().manual_seed(4)
    return (
        torch.randn(2, 4, 16, 16, generator=generator),
        torch.tensor([10, 700]),
        torch.randn(2, 9, 24, generator=generator),
    )


def test_attention_on_the_object_costs_nothing_and_beside_it_one():
    masks = torch.zeros(1, 4, 4)
    masks[0, :2] = 1
    on = torch.zeros(2, 4, 4, 3)
    on[:, :2, :, 1] = 0.1
    assert float(token_loss([on], masks, [[1]])) == 0.0
    assert float(token_loss([on.flip(1)], masks, [[1]])) == 1.0
    assert float(token_loss([on, on.flip(1)], masks, [[1]])) == 1.0  # summed over maps
    half = (on + on.flip(1)) / 2
    assert float(token_loss([half], masks, [[1]])) == pytest.approx(0.25)
    one_head = torch.stack([on[0], on.flip(1)[0]])  # heads are averaged before the square
    assert float(token_loss([one_head], masks, [[1]])) == pytest.approx(0.25)


def test_pixel_loss_sums_the_words_of_an_object():
    masks = torch.zeros(1, 2, 2)
    masks[0, 0, 0] = 1
    maps = torch.full((1, 2, 2, 3), 0.2)
    expected = F.binary_cross_entropy(torch.full((2, 2), 0.4), masks[0])
    assert float(pixel_loss([maps], masks, [[0, 2]])) == pytest.approx(float(expected))


def test_masks_shrink_to_every_touched_cell():
    mask = torch.zeros(1, 512, 512)
    mask[0, 0:3, 0:3] = 0.4
    assert attention_mask(mask, 8)[0].nonzero().tolist() == [[0, 0]]
    assert attention_mask(torch.ones(1, 512, 512), 4).eq(1).all()


def test_groups_of_stable_diffusion_and_of_smaller_pictures():
    maps = {name: [] for name in ("down_64", "mid_8", "up_8", "up_16", "up_32", "up_64")}
    assert training_groups(512, maps) == ["mid_8", "up_16", "up_32", "up_64"]
    small = {name: [] for name in ("down_16", "mid_4", "up_4", "up_8", "up_16", "up_32")}
    assert training_groups(128, small) == ["mid_4", "up_4", "up_8", "up_16"]


def test_words_are_found_behind_a_position():
    text = [0, 5, 7, 8, 9, 8, 1]  # "a teddy bear above a bear" in spirit
    assert find_words(text, [8]) == [3] and find_words(text, [8], 4) == [5]
    assert find_words(text, [7, 8]) == [2, 3]
    for missing in ([4], [8, 7], []):
        with pytest.raises(ValueError, match="do not occur"):
            find_words(text, missing)


def test_the_recorder_changes_nothing_and_goes_without_a_trace(unet):
    install_tenor(unet)
    with torch.no_grad():
        before = unet(*inputs()).sample
        recorder = AttentionRecorder(unet)
        unet(*inputs())
        assert recorder.take() == {}  # nothing was asked for
        recorder.start()
        torch.testing.assert_close(unet(*inputs()).sample, before, rtol=1e-5, atol=1e-5)
        maps = recorder.take()
        recorder.remove()
        assert torch.equal(unet(*inputs()).sample, before)
    assert set(maps) == {"down_16", "down_8", "mid_8", "up_8", "up_16"}
    heads = maps["up_16"][0].shape[0] // 2
    assert all(part.shape == (2 * heads, 16, 16, 9) for part in maps["up_16"])
    torch.testing.assert_close(maps["mid_8"][0].sum(-1), torch.ones_like(maps["mid_8"][0].sum(-1)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_reach_the_weights_with_and_without_checkpointing(unet, checkpointing):
    install_tenor(unet)
    recorder = AttentionRecorder(unet)
    if checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    recorder.start()
    answer = unet(*inputs()).sample
    maps = recorder.take()
    masks = torch.zeros(2, 64, 64)
    masks[0, :32], masks[1, 32:] = 1, 1
    own = {name: [part.unflatten(0, (2, -1))[0] for part in parts] for name, parts in maps.items()}
    loss = grounding_loss(own, masks, [[2], [5, 6]], side_px=128)
    assert float(loss.weighted.detach()) == pytest.approx(
        TOKEN_WEIGHT * float(loss.token.detach()) + PIXEL_WEIGHT * float(loss.pixel.detach())
    )
    (answer.square().mean() * 0 + loss.weighted).backward()
    keys = [p.grad for name, p in unet.named_parameters() if "up_blocks" in name and "attn2.to_k" in name]
    assert keys and all(grad is not None and grad.abs().sum() > 0 for grad in keys)
    assert recorder.take() == {}  # the second forward of checkpointing was not kept


def test_what_cannot_be_grounded_is_refused(unet):
    maps = {"up_16": [torch.rand(2, 16, 16, 9)]}
    with pytest.raises(ValueError, match="none of the groups"):
        grounding_loss(maps, torch.ones(1, 8, 8), [[1]], side_px=1024)
    with pytest.raises(ValueError, match="1 masks were given with words"):
        grounding_loss(maps, torch.ones(1, 8, 8), [[]], side_px=128)
    with pytest.raises(ValueError, match="no cross-attention"):
        AttentionRecorder(torch.nn.Linear(1, 1))
    recorder = AttentionRecorder(unet)
    recorder.start()
    with pytest.raises(ValueError, match="no square"):
        unet(torch.zeros(1, 4, 16, 8), 1, torch.zeros(1, 9, 24))
