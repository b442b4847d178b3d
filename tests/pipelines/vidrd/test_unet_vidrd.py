"""The video UNet: its image layers are the stock model's, its temporal ones start as nothing."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from pipelines.vidrd.unet_vidrd import IMAGE_FIELDS, VidRDUNet3DModel, is_temporal
from tests.pipelines.vidrd.conftest import UNET, shake, tiny_unet

SD21 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024}


def stock_unet(**options):
    torch.manual_seed(0)
    names = {
        key: tuple(n.replace("3D", "2D") for n in UNET[key]) for key in ("down_block_types", "up_block_types")
    }
    return shake(UNet2DConditionModel(**{**UNET, **names, **options}))


def inputs(frames=3, batch=1, size=(4, 6), seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, frames, *size, generator=generator)
    return x, torch.randn(batch, 5, 16, generator=generator)


@pytest.mark.parametrize("linear", [True, False])
@torch.no_grad()
def test_image_weights_load_untouched_and_single_frames_are_pictures(linear):
    image = stock_unet(use_linear_projection=linear)
    video = VidRDUNet3DModel.from_unet2d(image, add_temp_embed=False).eval()
    own, theirs = video.state_dict(), image.state_dict()
    assert set(theirs) <= set(own) and all(is_temporal(name) for name in set(own) - set(theirs))
    assert all(own[name].equal(value) for name, value in theirs.items())
    x, text = inputs(frames=1)
    expected = image(x[:, :, 0], 500, text).sample
    torch.testing.assert_close(video(x, 500, text).sample[:, :, 0], expected, rtol=1e-5, atol=1e-5)
    x, text = inputs(frames=3)  # norms pool over frames: a clip is no row of pictures, even at the start
    apart = image(x[0].transpose(0, 1), 500, text.expand(3, -1, -1)).sample.transpose(0, 1)
    assert (video(x, 500, text).sample[0] - apart).abs().max() > 1e-3
    same = x[:, :, :1].expand(-1, -1, 3, -1, -1)  # a clip that stands still is
    expected = image(x[:, :, 0], 500, text).sample[:, :, None].expand(-1, -1, 3, -1, -1)
    torch.testing.assert_close(video(same, 500, text).sample, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_positions_at_the_attention_leave_image_layers_alone():
    image = stock_unet()
    video = VidRDUNet3DModel.from_unet2d(image, add_temp_embed=True, temp_embed_at="attention").eval()
    x, text = inputs(frames=1)
    expected = image(x[:, :, 0], 500, text).sample
    torch.testing.assert_close(video(x, 500, text).sample[:, :, 0], expected, rtol=1e-5, atol=1e-5)
    same = x.expand(-1, -1, 4, -1, -1)
    before = video(same, 500, text).sample
    for name, value in video.named_parameters():
        if "temp_attn" in name:
            torch.nn.init.normal_(value, std=0.2)
    after = video(same, 500, text).sample
    assert torch.allclose(before[:, :, 0], before[:, :, 3], atol=1e-5)
    assert not torch.allclose(after[:, :, 0], after[:, :, 3], atol=1e-3)  # the attention tells frames apart
    with pytest.raises(ValueError, match="temp_embed_at is 'text'; it must be residual or attention"):
        VidRDUNet3DModel.from_unet2d(image, temp_embed_at="text")


@torch.no_grad()
def test_words_shift_each_frame_where_motion_is_embedded():
    """At first nothing changes; later frames of a still clip differ, each text in its own way."""
    image = stock_unet()
    x, text = inputs(frames=1)
    video = VidRDUNet3DModel.from_unet2d(image, add_motion_embed=True, add_temp_embed=False).eval()
    expected = image(x[:, :, 0], 500, text).sample
    same = x.expand(-1, -1, 4, -1, -1)
    before = video(same, 500, text).sample
    assert all(torch.allclose(before[:, :, f], expected, rtol=1e-4, atol=1e-4) for f in range(4))
    torch.nn.init.normal_(video.temp_motion.out.weight, std=0.5)
    after, other = video(same, 500, text).sample, video(same, 500, -text).sample
    assert not torch.allclose(after[:, :, 0], after[:, :, 3], atol=1e-3)
    ways = [film[:, :, 3] - film[:, :, 0] for film in (after, other)]
    assert (ways[0] - ways[1]).abs().max() > 1e-3
    torch.testing.assert_close(video(x, 500, text).sample[:, :, 0], expected, rtol=1e-5, atol=1e-5)
    assert all(is_temporal(name) for name, _ in video.named_parameters() if "temp_motion" in name)


@torch.no_grad()
@torch.no_grad()
def test_frames_may_have_times_of_their_own():
    unet = tiny_unet()
    x, text = torch.randn(2, 4, 4, 4, 4), torch.randn(2, 5, 16)
    even = unet(x, torch.tensor([7, 500]), text).sample
    same = unet(x, torch.tensor([[7] * 4, [500] * 4]), text).sample
    torch.testing.assert_close(same, even, rtol=1e-5, atol=1e-5)
    other = unet(x, torch.tensor([[0, 7, 7, 7]]), text).sample
    assert not torch.allclose(other[0], even[0], atol=1e-3)


def test_videos_of_a_batch_do_not_see_each_other():
    model = tiny_unet()
    (x, text), (y, other) = inputs(seed=1), inputs(seed=2)
    both = model(torch.cat([x, y]), torch.tensor([10, 900]), torch.cat([text, other])).sample
    torch.testing.assert_close(both[:1], model(x, 10, text).sample, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[1:], model(y, 900, other).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "option", ["add_temp_conv", "add_temp_embed", "add_temp_attn_only_on_upblocks", "prepend_first_frame"]
)
@torch.no_grad()
def test_every_option_changes_the_result(option):
    x, text = inputs()
    model = tiny_unet()
    other = VidRDUNet3DModel(**{**UNET, option: not model.config[option]}).eval()
    other.load_state_dict({k: v for k, v in model.state_dict().items() if k in other.state_dict()})
    assert (model(x, 10, text).sample - other(x, 10, text).sample).abs().max() > 1e-4


@torch.no_grad()
def test_positions_disturb_even_single_frames():
    x, text = inputs(frames=1)
    model = tiny_unet()
    plain = VidRDUNet3DModel(**UNET, add_temp_embed=False).eval()
    plain.load_state_dict(model.state_dict())
    assert (model(x, 10, text).sample - plain(x, 10, text).sample).abs().max() > 1e-3


@torch.no_grad()
def test_any_size_comes_back_as_it_was():
    x, text = inputs(size=(5, 7))
    assert tiny_unet()(x, 10, text).sample.shape == x.shape
    assert tiny_unet()(x, 10, text, return_dict=False)[0].shape == x.shape


def test_checkpointing_changes_no_gradient():
    x, text = inputs(frames=2)
    gradients = []
    for checkpointed in (False, True):
        model = tiny_unet()
        if checkpointed:
            model.enable_gradient_checkpointing()
        model(x, 10, text).sample.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(gradients[0][name] is not None for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-4)


def test_the_published_size_has_the_published_number_of_weights():
    with torch.device("meta"):
        model = VidRDUNet3DModel(**SD21)
    state = model.state_dict()
    temporal = {name: value.numel() for name, value in state.items() if is_temporal(name)}
    assert len(state) == 1150 and len(temporal) == 464
    assert sum(value.numel() for value in state.values()) == 1_182_401_284
    assert sum(n for name, n in temporal.items() if ".temp_convs." in name) == 266_891_520
    assert sum(n for name, n in temporal.items() if ".temp_convs." not in name) == 49_599_040
    key = "mid_block.attentions.0.transformer_blocks.0.temp_attn.to_out.0.bias"
    assert state[key].shape == (1280,)
    assert state["up_blocks.3.temp_convs.2.convs.15.weight"].shape == (320, 320, 3, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_temp_transformer": True}, "add_temp_transformer is True"),
        ({"mid_block_type": "UNetMidBlock2D"}, "block 'UNetMidBlock2D' can't be run over frames; allowed: "),
        ({"block_out_channels": (16, 16)}, "multiples of 32, got 16"),
    ],
)
def test_what_cannot_be_run_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VidRDUNet3DModel(**{**UNET, **options})


def test_an_image_model_with_other_parts_is_refused():
    image = stock_unet(class_embed_type="timestep")
    with pytest.raises(ValueError, match="other parts than a plain text-to-image one"):
        VidRDUNet3DModel.from_unet2d(image)


def test_folders_lose_no_bit_and_no_option(tmp_path):
    model = tiny_unet(prepend_first_frame=True, add_temp_embed=False)
    model.save_pretrained(tmp_path)
    again = VidRDUNet3DModel.from_pretrained(tmp_path)
    assert again.config.prepend_first_frame and not again.config.add_temp_embed
    assert set(IMAGE_FIELDS) <= set(again.config)
    state = again.state_dict()
    assert all(state[name].equal(value) for name, value in model.state_dict().items())
