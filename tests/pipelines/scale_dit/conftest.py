"""Tiny random parts of FLUX.2's classes, and LoRA files in the layout of released ones."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 24,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 6, 6),
}
TINY_FLUX2 = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "timestep_guidance_channels": 32,
    "mlp_ratio": 2.0,
    "axes_dims_rope": (4, 4, 4, 4),
    "guidance_embeds": False,
}
WORDS = (
    "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "user", "assistant",
    "a", "red", "blue", "ball", "cat", "in", "on", "the", "meadow", "beach",
)  # fmt: skip
CHAT = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
# layers that released LoRAs reach, as patterns of module names
TARGETS = {
    "flux1": r"x_embedder|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.to_[qkv])",
    "flux2": r"x_embedder|transformer_blocks\.\d+\.(attn\.to_[qkv]|attn\.to_out\.0|ff\.linear_(in|out))"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)",
}


def tiny_flux2_parts(**flux: Any) -> dict[str, Any]:
    """Components of a `Flux2KleinPipeline` whose base size is 64 px."""
    import torch
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = CHAT
    qwen = Qwen3Config(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=16, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, pad_token_id=0,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        sample_size=512, mid_block_add_attention=False,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, base_image_seq_len=4, max_image_seq_len=16),
        "vae": vae.eval(),
        "text_encoder": Qwen3ForCausalLM(qwen).eval(),
        "tokenizer": tokenizer,
        "transformer": Flux2Transformer2DModel(**{**TINY_FLUX2, **flux}).eval(),
    }


@pytest.fixture(scope="session")
def build_flux2_parts() -> Callable[..., dict[str, Any]]:
    return tiny_flux2_parts


@pytest.fixture(scope="session")
def flux2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as stock diffusers saves it. Read only."""
    from diffusers import Flux2KleinPipeline

    folder = tmp_path_factory.mktemp("flux2") / "tiny"
    Flux2KleinPipeline(**tiny_flux2_parts()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def flux2_pipeline(flux2_folder: Path) -> Any:
    from pipelines.scale_dit.pipeline_scale_dit_flux2 import ScaleDiTFlux2Pipeline

    pipeline = ScaleDiTFlux2Pipeline.from_pretrained(flux2_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_lora(transformer: Any, rank: int = 4, seed: int = 3) -> dict[str, Any]:
    """A LoRA of a tiny transformer in the layout of released files: no alpha, "transformer." in front."""
    import re

    import torch
    from torch import nn

    line = "flux1" if hasattr(transformer, "time_text_embed") else "flux2"
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in transformer.named_modules():
        name = name.removesuffix(".base_layer")  # where an adapter is loaded already
        if isinstance(layer, nn.Linear) and re.fullmatch(TARGETS[line], name):
            for part, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
                key = f"transformer.{name}.lora_{part}.weight"
                tensors[key] = torch.randn(shape, generator=generator) * 0.15
    return tensors


@pytest.fixture(scope="session")
def build_lora() -> Callable[..., dict[str, Any]]:
    return random_lora


@pytest.fixture(scope="module")
def parts(saved_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What recipes start from: the tiny model's text parts, an autoencoder of 16 channels, a transformer."""
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    folder = tmp_path_factory.mktemp("parts")
    for name in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "scheduler"):
        shutil.copytree(saved_folder / name, folder / name)
    shutil.copy(saved_folder / "model_index.json", folder)
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=16, norm_num_groups=4,
        mid_block_add_attention=False, scaling_factor=1.0, shift_factor=0.0,
    ).save_pretrained(folder / "vae")  # fmt: skip
    FluxTransformer2DModel(**TINY).save_pretrained(folder / "transformer")
    return folder
