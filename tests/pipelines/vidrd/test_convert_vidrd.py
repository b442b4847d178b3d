"""The published files' layout and old names, and what is refused."""

import json
import pickle

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from pipelines import VidRDPipeline
from pipelines.storybook.text import build_clip_tokenizer
from pipelines.vidrd import convert_vidrd
from pipelines.vidrd.convert_vidrd import convert, main, read_state, split_checkpoint, text_keys, vae_keys
from tests.pipelines.vidrd.conftest import UNET, VAE, ddim, shake, tiny_text, tiny_unet, tiny_video_vae

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_names(state):
    """Keys of an autoencoder as diffusers 0.14 wrote them."""
    renamed = {}
    for key, value in state.items():
        for new, old in OLD.items():
            if ".mid_block.attentions." in key:
                key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = value
    return renamed


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Stable Diffusion folder."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    names = {
        key: tuple(n.replace("3D", "2D") for n in UNET[key]) for key in ("down_block_types", "up_block_types")
    }
    tokenizer = build_clip_tokenizer()
    folder = tmp_path_factory.mktemp("base")
    StableDiffusionPipeline(
        vae=AutoencoderKL(**{**VAE, "mid_block_add_attention": True}),
        text_encoder=tiny_text(tokenizer), tokenizer=tokenizer,
        unet=UNet2DConditionModel(**{**UNET, **names, "use_linear_projection": True}),
        scheduler=ddim(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """`ModelT2V.pth` and `vae_finetuned` with random weights, and the models they came from."""
    folder = tmp_path_factory.mktemp("published")
    unet, vae = tiny_unet(), tiny_video_vae(mid_block_add_attention=True)
    text = shake(tiny_text(build_clip_tokenizer()), seed=5)
    state = {f"unet.{key}": value for key, value in unet.state_dict().items()}
    state |= {f"text_encoder.text_model.{key}": value for key, value in text.state_dict().items()}
    state["text_encoder.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save({"state_dict": state, "epoch": 3}, folder / "ModelT2V.pth")
    (folder / "vae_finetuned").mkdir()
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    (folder / "vae_finetuned/config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderKL"}))
    torch.save(old_names(vae.state_dict()), folder / "vae_finetuned/diffusion_pytorch_model.bin")
    return folder, {"unet": unet, "vae": vae, "text_encoder": text}


def test_published_files_become_a_folder_bit_for_bit(base, published, tmp_path):
    folder, models = published
    fresh = convert(folder / "ModelT2V.pth", base, tmp_path / "out", folder / "vae_finetuned")
    assert fresh == []
    pipeline = VidRDPipeline.from_pretrained(tmp_path / "out")
    for name, model in models.items():
        state = getattr(pipeline, name).state_dict()
        assert all(state[key].equal(value) for key, value in model.state_dict().items()), name
    assert pipeline.unet.config.add_temp_embed and pipeline.base_size == convert_vidrd.RESOLUTION
    suffixes = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes and not suffixes & {".bin", ".pth", ".pt", ".pkl"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_plain_image_checkpoint_gets_fresh_temporal_layers(base, tmp_path, capsys):
    image = UNet2DConditionModel.from_pretrained(base / "unet")
    vae = AutoencoderKL.from_pretrained(base / "vae")
    state = {f"unet.{key}": value for key, value in image.state_dict().items()}
    state |= {f"vae.{key}": 2 * value for key, value in old_names(vae.state_dict()).items()}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "a.safetensors")
    main(
        ["--checkpoint", str(tmp_path / "a.safetensors"), "--base", str(base), "--out", str(tmp_path / "out")]
    )
    assert "temporal weights start at zero" in capsys.readouterr().out
    pipeline = VidRDPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline.vae) is AutoencoderKL
    assert pipeline.vae.state_dict()["quant_conv.bias"].equal(2 * vae.state_dict()["quant_conv.bias"])
    temporal = [
        value for name, value in pipeline.unet.state_dict().items() if name.endswith("convs.15.weight")
    ]
    assert temporal and not any(value.any() for value in temporal)


def test_old_names_and_leftovers():
    renamed = vae_keys({"decoder.mid_block.attentions.0.proj_attn.bias": 1, "encoder.conv_in.weight": 2,
                        "decoder.mid_block.attentions.0.group_norm.weight": 3})  # fmt: skip
    assert renamed == {
        "decoder.mid_block.attentions.0.to_out.0.bias": 1,
        "encoder.conv_in.weight": 2,
        "decoder.mid_block.attentions.0.group_norm.weight": 3,
    }
    assert text_keys({"text_model.final_layer_norm.bias": 1, "text_model.embeddings.position_ids": 2}) == {
        "final_layer_norm.bias": 1
    }
    dead = "down_blocks.0.attentions.0.transformer_blocks.0.temp_norm.weight"
    assert convert_vidrd.unet_keys({dead: 1, "conv_in.bias": 2}) == {"conv_in.bias": 2}


def test_what_does_not_fit_is_named(base, published, tmp_path):
    folder, models = published
    with pytest.raises(ValueError, match="the checkpoint has a key 'optimizer.x'; expected prefixes: unet"):
        split_checkpoint({"optimizer.x": torch.zeros(1)})
    with pytest.raises(ValueError, match="no key with the prefix 'unet.'"):
        split_checkpoint({"vae.x": torch.zeros(1)})
    state = models["unet"].state_dict()
    state.pop("conv_in.bias")
    with pytest.raises(
        ValueError, match="the UNet doesn't fit: 1 keys are missing, 0 are unknown, as 'conv_in.bias'"
    ):
        convert_vidrd.load_weights(tiny_unet(), state, "UNet")
    with pytest.raises(ValueError, match="the UNet doesn't fit: size mismatch for conv_in.bias"):
        convert_vidrd.load_weights(tiny_unet(), {"conv_in.bias": torch.zeros(3)}, "UNet")
    with pytest.raises(ValueError, match="0 keys are missing, 1 are unknown, as 'new'"):
        convert_vidrd.load_weights(
            tiny_unet(), {**models["unet"].state_dict(), "new": state["conv_out.bias"]}, "UNet"
        )
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text((folder / "vae_finetuned/config.json").read_text())
    with pytest.raises(ValueError, match="holds no diffusion_pytorch_model file"):
        convert(folder / "ModelT2V.pth", base, tmp_path / "out", tmp_path / "vae")
    assert not (tmp_path / "out").exists()


class Nasty:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_pickles_that_do_more_than_hold_tensors_are_refused(tmp_path, capsys):
    with (tmp_path / "bad.pth").open("wb") as file:
        pickle.dump(Nasty(), file)
    with pytest.raises(ValueError, match="can't be read as weights"):
        read_state(tmp_path / "bad.pth")
    assert "this must not run" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="can't be read as weights"):
        read_state(tmp_path / "missing.safetensors")


def test_the_command_says_what_is_wrong_in_one_line(base, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for arguments in (["--out", str(tmp_path / "there")], ["--out", str(tmp_path / "new")]):
        with pytest.raises(SystemExit) as caught:
            main(["--checkpoint", str(tmp_path / "none.pth"), "--base", str(base), *arguments])
        assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert "there exists already" in errors and "none.pth can't be read as weights" in errors
