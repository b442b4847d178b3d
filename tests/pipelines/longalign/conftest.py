"""Tiny random pipelines of the stock classes with Storybook's tokenizers."""

from typing import Any

import pytest
import torch

from pipelines.storybook.text import build_clip_tokenizer, build_t5_tokenizer

MARKS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def clip_config(width: int = 16, layers: int = 2, positions: int = 77, projection: int = 16) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(build_clip_tokenizer()), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=positions,
        projection_dim=projection, **MARKS,
    )  # fmt: skip


def build_clip_text(**options: Any) -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel(clip_config(**options)).eval()


def build_t5(width: int = 24) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(build_t5_tokenizer()), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def build_vae(channels: int = 4) -> Any:
    """f8, as Storybook's autoencoder, but narrow."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=channels, norm_num_groups=4,
        sample_size=512, mid_block_add_attention=False, scaling_factor=1.0, shift_factor=0.0,
    ).eval()  # fmt: skip


def build_unet(context: int = 16, channels: int = 4, size: int = 8, **options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": size, "in_channels": channels, "out_channels": channels, "block_out_channels": (8, 16),
        "layers_per_block": 1, "cross_attention_dim": context, "attention_head_dim": 2, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return UNet2DConditionModel(**{**config, **options}).eval()


def sd_parts(**unet: Any) -> dict[str, Any]:
    """Components of a `StableDiffusionPipeline` without a safety checker."""
    from diffusers import DDIMScheduler

    torch.manual_seed(0)
    return {
        "vae": build_vae(unet.get("channels", 4)),
        "text_encoder": build_clip_text(),
        "tokenizer": build_clip_tokenizer(),
        "unet": build_unet(**unet),
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        "safety_checker": None,
        "feature_extractor": None,
    }  # fmt: skip


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def sd() -> Any:
    from diffusers import StableDiffusionPipeline

    return quiet(StableDiffusionPipeline(**sd_parts(), requires_safety_checker=False))


@pytest.fixture(scope="session")
def sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModelWithProjection

    parts = sd_parts(
        context=40, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12, transformer_layers_per_block=1,
    )  # fmt: skip
    second = build_clip_tokenizer()
    second.pad_token = "!"  # as SDXL's second tokenizer: padding that may also be real text
    config = clip_config(width=24, layers=3, projection=12)
    return quiet(
        StableDiffusionXLPipeline(
            vae=parts["vae"], unet=parts["unet"], scheduler=parts["scheduler"],
            text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
            text_encoder_2=CLIPTextModelWithProjection(config).eval(), tokenizer_2=second,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def flux(build_parts: Any) -> Any:
    from diffusers import FluxPipeline

    return quiet(FluxPipeline(**build_parts()))


@pytest.fixture(scope="session")
def page() -> str:
    """About 1,000 tokens: 80 sentences."""
    things = ("red cat", "blue house", "small green boat", "large yellow star")
    places = ("in a meadow", "on a beach", "to the left of a purple tree")
    lines = (f"There is a {things[i % 4]} {places[i % 3]}, it stands near the number {i}." for i in range(80))
    return " ".join(lines)
