"""Published files: config trees, metadata, folders, FlexAR, licences; everything that must not be opened."""

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file

from pipelines import FlexTokPipeline
from pipelines.flextok import checkpoint, licence
from pipelines.flextok.checkpoint import (
    PREFIXES,
    ar_arguments,
    build_models,
    fingerprint,
    load_ar,
    load_tokenizer,
    parse_metadata,
    read_safetensors,
)
from pipelines.flextok.config import read_tree
from pipelines.flextok.licence import LicenceNotAccepted, licence_notice
from pipelines.flextok.transformer_flexar import FlexARModel

VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
}  # fmt: skip


@pytest.fixture
def tree(published_tree):
    """A published tree made small."""
    found = published_tree()
    for section in ("encoder", "decoder"):
        for module in found[section]["module_dict"].values():
            if "dim" in module:
                module["dim"] = 16
            if "depth" in module:
                module["depth"] = 2
    return found


@pytest.fixture
def tensors(tree):
    torch.manual_seed(0)
    found = {}
    for name, model in build_models(read_tree(tree), VAE).items():
        state = model.state_dict()
        found |= {PREFIXES[name] + key: torch.randn(value.shape) * 0.1 for key, value in state.items()}
    return found


def metadata_of(tree):
    return {
        "_target_": "flextok.flextok_wrapper.FlexTok",
        **{key: repr(value) for key, value in tree.items()},
    }


@pytest.fixture
def single(tree, tensors, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata_of(tree))
    return path


@pytest.fixture
def published(tree, tensors, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tree))
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_folder_and_file_give_the_same_pipeline(single, published):
    first, second = (FlexTokPipeline.from_pretrained(path, vae_config=VAE) for path in (single, published))
    latents = torch.randn(1, 4, 8, 8)
    assert torch.equal(first.tokenize(latents), second.tokenize(latents))
    assert first.vae.config.scaling_factor == 0.5  # the config's, not the autoencoder's own
    assert not first.encoder.training and first.decoder.dtype == torch.float32


def test_the_autoencoder_keeps_float32_when_the_config_says_so(tree, tensors, tmp_path):
    tree["vae"]["dtype_override"] = "fp32"
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata_of(tree))
    models, settings = load_tokenizer(path, torch.bfloat16, VAE)
    assert settings.vae.keeps_float32
    assert models["vae"].dtype == torch.float32 and models["decoder"].dtype == torch.bfloat16


# config trees


def test_a_tree_says_what_is_built(tree):
    settings = read_tree(tree)
    assert settings.encoder["dim"] == 16 and settings.decoder["max_timestep"] == 1000.0
    assert settings.training.size_mode == "uniform_pow2" and settings.training.null_probability == 0.2
    assert settings.decoder["repa_layer"] == 1 and settings.encoder["mask_mode"] == "causal_last"


def at(tree, path):
    *parents, last = path.split("/")
    for name in parents:
        tree = tree[name]
    return tree, last


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vae/_target_", "os.system"),
        ("vae/_target_", "flextok.evil.StableDiffusionVAE"),
        ("vae/_target_", "notflextok.vae_wrapper.StableDiffusionVAE"),
        ("encoder/_target_", "builtins.eval"),
        ("encoder/module_dict/enc_transformer/_target_", "subprocess.Popen"),
        ("decoder/module_dict/dec_channels_to_first/per_sample_op/_target_", "os.remove"),
        ("regularizer/_target_", 7),
        ("pipeline/_target_", None),
    ],
)
def test_unknown_classes_are_refused(tree, path, value):
    node, name = at(tree, path)
    node[name] = value
    with pytest.raises(ValueError, match="_target_"):
        read_tree(tree)
    assert "subprocess.Popen" not in sys.modules


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("encoder/module_dict/enc_transformer/dim", "16", "enc_transformer.dim"),
        ("encoder/module_dict/enc_transformer/depth", -1, "depth"),
        ("encoder/module_dict/enc_transformer/depth", True, "depth"),
        ("encoder/module_dict/enc_transformer/gated_mlp", False, "gated_mlp"),
        ("encoder/module_dict/enc_transformer/qkv_bias", True, "qkv_bias"),
        ("encoder/module_dict/enc_transformer/norm_layer", "torch.nn.BatchNorm1d", "norm_layer"),
        ("encoder/module_dict/enc_transformer/window", 7, "window"),
        ("encoder/module_dict/enc_to_latents/use_mup_readout", True, "use_mup_readout"),
        ("encoder/module_dict/enc_to_latents/dim_out", 5, "dim_out"),
        ("encoder/module_dict/enc_register_module/n_min", 3, "n_min"),
        ("encoder/module_dict/enc_seq_packer/mask_mode", "banded", "mask_mode"),
        ("encoder/module_dict/enc_posemb_module/posemb_type", "rope", "posemb_type"),
        ("encoder/module_dict/enc_posemb_module/dim", 32, "dim"),
        ("decoder/module_dict/dec_seq_packer/mask_mode", "causal", "mask_mode"),
        ("decoder/module_dict/dec_transformer/adaLN_expansion", 1, "adaLN_expansion"),
        ("decoder/module_dict/dec_transformer/intermediate_layers", [9], "intermediate_layers"),
        ("decoder/module_dict/dec_to_patches/channels_out", 3, "channels_out"),
        ("decoder/module_dict/dec_latent_dropout/replace_with_single_token", True, "single_token"),
        ("decoder/module_dict/dec_time_embedder/max_timestep", "fast", "max_timestep"),
        ("decoder/module_dict/dec_extra", {"_target_": "x"}, "dec_extra"),
        ("decoder/module_dict", [], "module_dict"),
        ("regularizer/levels", [8, 1000, "x"], "levels"),
        ("vae/latent_channels", 16, "channels"),
        ("vae/dtype_override", "fp8", "dtype_override"),
        ("surprise", 3, "surprise"),
    ],
)
def test_unsupported_values_are_named(tree, path, value, message):
    node, name = at(tree, path)
    node[name] = value
    with pytest.raises(ValueError, match=message):
        build_models(read_tree(tree), VAE)


def test_missing_modules_are_named(tree):
    del tree["encoder"]["module_dict"]["enc_to_latents"]
    with pytest.raises(ValueError, match="missing modules.*enc_to_latents"):
        read_tree(tree)


def test_layer_classes_without_weights_are_understood(tree):
    trunk = tree["encoder"]["module_dict"]["enc_transformer"]
    trunk["act_layer"] = {"_target_": "torch.nn.SiLU", "_partial_": True}
    trunk["norm_layer"] = {"_target_": "flextok.layers.Fp32LayerNorm", "_partial_": True, "bias": False}
    assert read_tree(tree).encoder["dim"] == 16
    trunk["norm_layer"]["bias"] = True
    with pytest.raises(ValueError, match="norm_layer"):
        read_tree(tree)


# metadata


def test_metadata_is_parsed_as_literals_only(tree, tmp_path):
    written = tmp_path / "written"
    metadata = metadata_of(tree)
    assert parse_metadata(metadata)["encoder"] == tree["encoder"]
    for text in (
        f"open({str(written)!r}, 'w')",
        "__import__('os').getpid()",
        "{'a': [1",
        "(" * 5000,
        "-" * 90_000 + "1",
    ):
        with pytest.raises(ValueError, match="vae is not a plain literal"):
            parse_metadata({**metadata, "vae": text})
    assert not written.exists()
    with pytest.raises(ValueError, match="300000 characters"):
        parse_metadata({**metadata, "vae": " " * 300_000})
    with pytest.raises(ValueError, match="decoder missing"):
        parse_metadata({key: value for key, value in metadata.items() if key != "decoder"})


def test_a_file_without_metadata_is_refused(tensors, tmp_path):
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="holds no tokenizer config"):
        load_tokenizer(tmp_path / "bare.safetensors")


# damaged tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.module_dict.enc_to_latents.proj.bias"), "missing encoder.*proj.bias"),
        (lambda t: t.update(stranger=torch.zeros(1)), "unknown stranger"),
        (
            lambda t: t.update({"decoder.module_dict.dec_latent_dropout.nullcond": torch.zeros(3)}),
            r"nullcond is \[3\] instead of \[16\]",
        ),
        (
            lambda t: t.update({"decoder.module_dict.dec_latent_dropout.nullcond": torch.zeros(16).int()}),
            "nullcond holds torch.int32",
        ),
    ],
)
def test_wrong_tensors_are_listed(tree, tensors, tmp_path, change, message):
    change(tensors)
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata_of(tree))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path, vae_config=VAE)


def test_long_lists_of_problems_are_cut(tree, tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata_of(tree))
    with pytest.raises(ValueError, match=r"and \d\d+ more") as caught:
        load_tokenizer(path, vae_config=VAE)
    assert len(str(caught.value)) < 2000


def test_other_formats_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    for name in ("model.bin", "model.pt", "model.ckpt", "model.pkl", "model"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ValueError, match="is not a .safetensors file"):
            read_safetensors(tmp_path / name)
    disguised = tmp_path / "model.safetensors"
    disguised.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        FlexTokPipeline.from_pretrained(disguised)
    assert not (tmp_path / "exploded").exists()


def test_cut_files_are_refused(single):
    data = single.read_bytes()
    for length in (0, 4, 100, len(data) - 1):
        single.write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged or not a safetensors file"):
            load_tokenizer(single)


def test_folders_that_hold_no_tokenizer_say_so(tmp_path, published):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="no model.safetensors .*pytorch_model.bin"):
        load_tokenizer(tmp_path)
    for text in ("[1, 2]", "{", "\xff"):
        (published / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="config"):
            load_tokenizer(published)


# FlexAR


@pytest.fixture
def generator_file(tmp_path):
    def write(condition, extra=None, **sizes):
        torch.manual_seed(0)
        model = FlexARModel(
            vocab_size=50, num_tokens=8, width=64, depth=2, num_heads=1, condition=condition, num_classes=3,
            text_dim=12, **sizes,
        )  # fmt: skip
        tensors = {f"models.{name}": value for name, value in model.state_dict().items()}
        folder = tmp_path / condition
        folder.mkdir(exist_ok=True)
        save_file({**tensors, **(extra or {})}, folder / "model.safetensors")
        return folder, model

    return write


@pytest.mark.parametrize("condition", ["class", "text"])
def test_published_generators_are_recognised_by_their_tensors(generator_file, condition):
    parts = {
        "models.image_tokenizer.x": torch.zeros(1),
        "models.text_encoder.t5_embedder.shared.weight": torch.zeros(2),
    }
    folder, model = generator_file(condition, parts)
    loaded = load_ar(folder)
    assert loaded.config.condition == condition and not loaded.training
    assert all(value.equal(model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert load_ar(folder / "model.safetensors", num_heads=4).config.num_heads == 4


def test_other_generators_are_refused(generator_file, tmp_path):
    folder, _ = generator_file(
        "class", {"models.ar_image_model.trunk.blocks.0.attn.qkv.bias": torch.zeros(192)}
    )
    with pytest.raises(ValueError, match="unknown models.ar_image_model.trunk.blocks.0.attn.qkv.bias"):
        load_ar(folder)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="isn't a FlexAR checkpoint"):
        load_ar(tmp_path / "x.safetensors")
    base = "ar_image_model.preprocessor."
    with pytest.raises(ValueError, match="either class embeddings or a text projection"):
        ar_arguments({f"{base}embedding.weight": (5, 4), f"{base}positional_embedding": (3, 4)})


# licences and downloads


def test_nothing_is_downloaded_before_the_licence_is_accepted(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path)
    )
    name = "EPFL-VILAB/flextok_d12_d12_in1k"
    with pytest.raises(LicenceNotAccepted, match="(?s)research only.*accept_licence=True"):
        FlexTokPipeline.from_pretrained(name)
    assert asked == []
    with pytest.raises(ValueError, match="no model.safetensors"):  # the folder that came is empty
        FlexTokPipeline.from_pretrained(name, accept_licence=True, revision="main")
    (arguments, options) = asked[0]
    assert arguments == (name,) and options["revision"] == "main"
    assert all("bin" not in pattern and "py" not in pattern for pattern in options["allow_patterns"])


def test_notices_say_whose_licence_it_is():
    assert "Apple Machine Learning Research Model" in licence_notice("EPFL-VILAB/flextok_d18_d28_dfn")
    other = licence_notice("somebody/flextok")
    assert "Apple" not in other and "huggingface.co/somebody/flextok" in other


@pytest.mark.parametrize("name", ["missing", "a/b/c", "/nowhere/at/all", ""])
def test_names_that_are_no_models_are_refused(name):
    with pytest.raises(ValueError, match="neither a file or folder here nor a hub name"):
        licence.download(name, True)


def test_fingerprints_follow_the_weights(flextok, fresh_flextok):
    assert fingerprint(flextok.encoder) == fingerprint(fresh_flextok.encoder)
    with torch.no_grad():
        fresh_flextok.encoder.module_dict["enc_to_latents"].proj.bias[0] += 1e-3
    assert fingerprint(flextok.encoder) != fingerprint(fresh_flextok.encoder)
    assert len(checkpoint.fingerprint(flextok.encoder, flextok.decoder)) == 8
