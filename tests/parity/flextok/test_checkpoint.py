"""The recorded checkpoint: config from metadata and from `config.json`, every tensor under its key."""

import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.flextok.checkpoint import PREFIXES, load_tokenizer, parse_metadata
from tests.parity.flextok.recorded import assert_near, below, discover


def autoencoder_layout(tensors):
    """Widths and depth of the autoencoder as its tensors show them (groups of norms leave no trace)."""
    blocks = sorted(
        {int(m[1]) for name in tensors if (m := re.search(r"encoder\.down_blocks\.(\d+)\.", name))}
    )
    first = [tensors[f"vae.vae.encoder.down_blocks.{i}.resnets.0.conv1.weight"] for i in blocks]
    layers = {
        name.split(".")[6] for name in tensors if name.startswith("vae.vae.encoder.down_blocks.0.resnets.")
    }
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(blocks),
        "up_block_types": ("UpDecoderBlock2D",) * len(blocks),
        "block_out_channels": tuple(len(weight) for weight in first),
        "layers_per_block": len(layers),
        "latent_channels": len(tensors["vae.vae.post_quant_conv.bias"]),
        "norm_num_groups": 8,
        "mid_block_add_attention": any("mid_block.attentions" in name for name in tensors),
    }


def relatives(config):
    """Recorded tokenizers with the same config: (record, case)."""
    for param in discover("tokenizer_"):
        if param.values[0].file is not None and param.values[0].json["config"] == config:
            yield param.values[0]


def whole_file(case, config, target):
    """The recorded file; the small copy leaves out tensors that a recorded tokenizer has as well."""
    source = case.file.with_suffix(".safetensors")
    tensors = load_file(source)
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    for relative in relatives(config):
        stored = below(relative.tensors("_weights"), "sd.")
        assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
        tensors = {**stored, **tensors}
    save_file(tensors, target, metadata)
    return tensors


@pytest.mark.parametrize("case", discover("checkpoint_format"))
def test_both_forms_load(case, tmp_path):
    assert "metadata" in str(case.json)
    config = json.loads(case.file.with_suffix(".config.json").read_text())
    full = {"_target_": "flextok.flextok_wrapper.FlexTok", **config}
    single, published = tmp_path / "single.safetensors", tmp_path / "published"
    tensors = whole_file(case, full, single)
    with safe_open(single, "pt") as file:
        tree = parse_metadata(file.metadata())
    assert tree == full
    published.mkdir()
    shutil.copy(case.file.with_suffix(".config.json"), published / "config.json")
    shutil.copy(single, published / "model.safetensors")
    layout = autoencoder_layout(tensors)
    for path in (single, published):
        models, _ = load_tokenizer(path, vae_config=layout)
        ours = {
            PREFIXES[part] + name: value
            for part, model in models.items()
            for name, value in model.state_dict().items()
        }
        assert set(ours) == set(tensors)
        assert all(torch.equal(value, tensors[name]) for name, value in ours.items())
        for relative in relatives(full):
            io = relative.tensors("_io")
            with torch.no_grad():
                z = models["encoder"](io["vae.latents_scaled"])
            assert_near(z, io["enc.latents_to_fsq"], 1e-4)
            assert torch.equal(models["encoder"].quantizer.quantize(z)[1], io["fsq.tokens"])
