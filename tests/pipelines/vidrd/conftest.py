"""Tiny random video models of the real classes: 32 px pictures, clips of four frames."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel

from pipelines.storybook.text import build_clip_tokenizer
from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.pipeline_vidrd import VidRDPipeline
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel

UNET = {
    "sample_size": 4,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32,) * 4,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 0.8,
    "shift_factor": 0.1,
    "mid_block_add_attention": False,
}


@torch.no_grad()
def shake(model: Any, seed: int = 0, scale: float = 0.1) -> Any:
    """Random numbers on every parameter: layers that start at zero would hide what they do."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tiny_unet(**options: Any) -> VidRDUNet3DModel:
    torch.manual_seed(0)
    return shake(VidRDUNet3DModel(**{**UNET, **options}))


def tiny_video_vae(**options: Any) -> VidRDAutoencoderKL:
    torch.manual_seed(0)
    return shake(VidRDAutoencoderKL(**{**VAE, **options}), scale=0.02)


def ddim(**options: Any) -> DDIMScheduler:
    """The sampler of Stable Diffusion's folders."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return DDIMScheduler(**{**schedule, "clip_sample": False, "set_alpha_to_one": False, **options})


def tiny_text(tokenizer: Any, width: int = 16) -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def tiny_pipeline(**changed: Any) -> VidRDPipeline:
    tokenizer = build_clip_tokenizer()
    parts = {
        "vae": tiny_video_vae(),
        "text_encoder": tiny_text(tokenizer),
        "tokenizer": tokenizer,
        "unet": tiny_unet(),
        "scheduler": ddim(),
    }
    pipeline = VidRDPipeline(**{**parts, **changed})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="package")
def video_pipeline() -> VidRDPipeline:
    """Read only."""
    return tiny_pipeline()


@pytest.fixture(scope="package")
def video_folder(tmp_path_factory: pytest.TempPathFactory, video_pipeline: VidRDPipeline) -> Any:
    """The tiny pipeline on disk, with a name that says "embedded". Read only."""
    folder = tmp_path_factory.mktemp("weights") / "storybook-tiny-video"
    video_pipeline.save_pretrained(folder)
    return folder
