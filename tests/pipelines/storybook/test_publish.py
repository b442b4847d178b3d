"""From averaged weights to model folders."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPModel, CLIPTextModel, T5EncoderModel

from pipelines.storybook import cards, publish
from pipelines.storybook.publish import averaged, fold_statistics, latent_statistics
from pipelines.storybook.text import build_clip, build_clip_tokenizer, build_t5, build_t5_tokenizer
from pipelines.storybook.train_vae import VAE_CONFIG
from pipelines.weights import read_manifest, verify_folder


def write_average(folder, state):
    folder.mkdir(exist_ok=True)
    torch.save({name: value.half() for name, value in state.items()}, folder / "ema.pt")
    return folder


def pictures(count=4, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_folding_normalises_latents_and_keeps_reconstructions(build_vae):
    torch.manual_seed(3)
    vae = build_vae().eval()
    x = pictures()
    before = vae.encode(x).latent_dist
    decoded = vae.decode(before.mean).sample
    mean, deviation = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
    fold_statistics(vae, mean, deviation)
    after = vae.encode(x).latent_dist
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(4), rtol=1e-4, atol=0)
    torch.testing.assert_close(after.std, before.std / deviation.view(1, 4, 1, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.decode(after.mean).sample, decoded, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_statistics_are_taken_per_channel_over_drawings(build_vae):
    mean, deviation = latent_statistics(build_vae().eval(), count=4)
    assert mean.shape == deviation.shape == (4,) and deviation.gt(0).all()
    assert len(set(mean.tolist())) == 4


def test_parts_of_an_average_are_found_by_their_prefix(tmp_path):
    write_average(tmp_path, {"encoder.a": torch.ones(1), "encoder.b.c": torch.ones(1), "head": torch.ones(1)})
    assert set(averaged(tmp_path, "encoder.")) == {"a", "b.c"}
    assert set(averaged(tmp_path)) == {"encoder.a", "encoder.b.c", "head"}


@torch.no_grad()
def test_the_autoencoder_is_published_with_folded_statistics(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "latent_statistics", lambda vae: latent_statistics(vae, count=16))
    torch.manual_seed(0)
    trained = AutoencoderKL(**VAE_CONFIG).eval()
    state = write_average(tmp_path / "state", trained.state_dict())
    publish.main(["vae", "--state", str(state), "--folder", str(tmp_path / "model")])
    published = AutoencoderKL.from_pretrained(tmp_path / "model/vae").eval()
    assert (published.config.scaling_factor, published.config.shift_factor) == (1.0, 0.0)
    x = pictures(2)
    expected = trained.decode(trained.encode(x).latent_dist.mean).sample
    given = published.decode(published.encode(x).latent_dist.mean).sample
    torch.testing.assert_close(given, expected, rtol=0, atol=2e-2)
    mean, deviation = latent_statistics(published, count=16)
    assert mean.abs().max() < 0.02 and (deviation - 1).abs().max() < 0.02


def test_text_towers_are_published_as_stock_classes(tmp_path):
    torch.manual_seed(0)
    t5, clip = build_t5(build_t5_tokenizer()), build_clip(build_clip_tokenizer())
    heads = {"object_head.weight": torch.zeros(1)}
    encoder = {f"encoder.{name}": value for name, value in t5.state_dict().items()}
    write_average(tmp_path / "t5", encoder | heads)
    text = {f"text.{name}": value for name, value in clip.text_model.state_dict().items()}
    write_average(tmp_path / "text", text)
    write_average(tmp_path / "clip", {f"clip.{name}": value for name, value in clip.state_dict().items()})
    folder = tmp_path / "model"
    publish.main(["t5", "--state", str(tmp_path / "t5"), "--folder", str(folder)])
    publish.main(["clip-text", "--state", str(tmp_path / "text"), "--folder", str(folder)])
    publish.main(["clip", "--state", str(tmp_path / "clip"), "--folder", str(tmp_path / "both")])
    stored = T5EncoderModel.from_pretrained(folder / "text_encoder_2").state_dict()
    assert all(torch.allclose(stored[k], value, 1e-3, 1e-3) for k, value in t5.state_dict().items())
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    both = CLIPModel.from_pretrained(tmp_path / "both")
    ids = build_clip_tokenizer()("a red ball in a meadow", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(
            text(input_ids=ids).pooler_output, both.text_model(input_ids=ids).pooler_output, rtol=0, atol=1e-5
        )


def test_the_manifest_is_renewed_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "PURPOSE", {"mine": "Is tested."})
    weights = tmp_path / "weights"
    (weights / "model").mkdir(parents=True)
    (weights / "model/config.json").write_text("{}")
    entry = tmp_path / "entry.json"
    entry.write_text(json.dumps({"folder": "model", "class": "X", "recipe": {}, "metrics": {"psnr": 33.0}}))
    publish.main(["manifest", "--state", str(entry), "--folder", str(weights), "--name", "mine"])
    written = read_manifest(weights)["models"]["mine"]
    assert written["metrics"] == {"psnr": 33.0} and set(written["files"]) == {"config.json", "README.md"}
    assert verify_folder(weights / "model") == []


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        publish.main(["everything", "--folder", "x"])
    assert ended.value.code == 2 and "invalid choice" in capsys.readouterr().err


def test_a_run_of_the_unet_becomes_a_stock_pipeline(tmp_path, monkeypatch):
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    from pipelines.storybook import train_sd

    small = {"block_out_channels": (8, 8, 8), "attention_head_dim": 2, "norm_num_groups": 4}
    monkeypatch.setattr(train_sd, "UNET_CONFIG", train_sd.UNET_CONFIG | small)
    torch.manual_seed(0)
    unet, clip = UNet2DConditionModel(**train_sd.UNET_CONFIG), build_clip(build_clip_tokenizer())
    write_average(tmp_path / "unet", {f"unet.{name}": value for name, value in unet.state_dict().items()})
    text = {f"text.{name}": value for name, value in clip.text_model.state_dict().items()}
    write_average(tmp_path / "text", text)
    parts, folder = tmp_path / "parts", tmp_path / "model"
    publish.main(["clip-text", "--state", str(tmp_path / "text"), "--folder", str(parts)])
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, latent_channels=16, norm_num_groups=4,
        mid_block_add_attention=False, scaling_factor=1.0, shift_factor=0.0,
    ).save_pretrained(parts / "vae")  # fmt: skip
    options = ["--state", str(tmp_path / "unet"), "--folder", str(folder), "--parts", str(parts)]
    publish.main(["sd", *options])
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline("a red ball in a meadow", num_inference_steps=2, output_type="np").images
    assert out.shape == (1, 128, 128, 3) and out.std() > 0
