"""Views between frames and videos, and the layers that look along time, against written-out forms."""

import pytest
import torch
from torch import nn

from pipelines.vidrd.temporal_layers import (
    TemporalConvLayer,
    frame_positions,
    join_frames,
    norm_over_frames,
    split_frames,
)

B, F, C, H, W = 2, 3, 64, 4, 5


@pytest.fixture
def x():
    return torch.randn(B * F, C, H, W)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_joining_keeps_the_frames_of_a_video_together(x, layout):
    x = x.to(memory_format=layout)
    joined = join_frames(x, F)
    assert joined.shape == (B, C, F * H, W)
    assert torch.equal(joined[1, :, H : 2 * H], x[F + 1])
    assert torch.equal(split_frames(joined, F), x)
    if layout == torch.channels_last:
        assert joined.data_ptr() == x.data_ptr()  # a view, nothing is copied


def test_norms_pool_over_all_frames_of_a_video(x):
    norm = nn.GroupNorm(8, C)
    video = x.unflatten(0, (B, F)).transpose(1, 2)  # [B, C, F, H, W]
    expected = norm(video).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(norm_over_frames(norm, x, F), expected, rtol=1e-5, atol=1e-5)
    assert (norm_over_frames(norm, x, F) - norm(x)).abs().max() > 0.01


@torch.no_grad()
def test_temporal_convolutions_are_3d_convolutions_on_the_video(x):
    layer = TemporalConvLayer(C, depth=3).eval()
    assert torch.equal(layer(x, F), x)  # the last convolution starts at zero
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.2, 0.1)
    video = x.unflatten(0, (B, F)).transpose(1, 2)
    change = video
    for index in range(0, 12, 4):
        norm, convolution = layer.convs[index], layer.convs[index + 3]
        plain = nn.Conv3d(C, C, (3, 1, 1), padding=(1, 0, 0))
        plain.load_state_dict(convolution.state_dict())
        change = plain(nn.functional.silu(nn.functional.group_norm(change, 32, norm.weight, norm.bias, 1e-5)))
    expected = (video + change).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(layer(x, F), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(layer(x, 1), x)  # a single frame passes
    names = [name for name in layer.state_dict() if name.endswith("weight")]
    assert names == [f"convs.{index}.weight" for index in (0, 3, 4, 7, 8, 11)]


def test_channels_must_fill_the_groups_of_the_published_norms():
    with pytest.raises(ValueError, match="multiples of 32, got 48"):
        TemporalConvLayer(48, 4)


def test_positions_are_sines_at_even_and_cosines_at_odd_channels():
    table = frame_positions(9, 6, torch.zeros((), dtype=torch.float64))
    assert table.dtype == torch.float64
    assert torch.equal(table[0], torch.tensor([0.0, 1.0] * 3).double())
    place = 5 * 10000.0 ** (-2 / 6)
    torch.testing.assert_close(table[5, 2:4], torch.tensor([place]).sin().repeat(1).double().new_tensor(
        [torch.tensor(place).sin(), torch.tensor(place).cos()]), rtol=1e-5, atol=1e-6)  # fmt: skip
