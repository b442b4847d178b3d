"""Tiny random models of the real classes; nothing here is a stand-in."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TINY_FLUX = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}


def tiny_vae(latent_channels: int = 4) -> Any:
    """f8, no attention, as Storybook's autoencoder is built."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=512,
        scaling_factor=0.8,
        shift_factor=0.1,
        mid_block_add_attention=False,
    )


def tiny_parts(**flux: Any) -> dict[str, Any]:
    """Components of a `FluxPipeline` whose base size is 64 px; `flux` changes the transformer's config."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    from pipelines.storybook.text import build_clip_tokenizer, build_t5_tokenizer

    torch.manual_seed(0)
    tokenizer, tokenizer_2 = build_clip_tokenizer(), build_t5_tokenizer()
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=len(tokenizer_2), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        is_encoder_decoder=False, use_cache=False, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=1.0, base_image_seq_len=4, max_image_seq_len=16),
        "vae": tiny_vae().eval(),
        "text_encoder": CLIPTextModel(clip).eval(),
        "tokenizer": tokenizer,
        "text_encoder_2": T5EncoderModel(t5).eval(),
        "tokenizer_2": tokenizer_2,
        "transformer": FluxTransformer2DModel(**{**TINY_FLUX, **flux}).eval(),
    }


@pytest.fixture(scope="session")
def build_parts() -> Callable[..., dict[str, Any]]:
    return tiny_parts


@pytest.fixture(scope="session")
def build_vae() -> Callable[[], Any]:
    return tiny_vae


@pytest.fixture
def counting_vae() -> Any:
    """Storybook's latent shape at a tenth of the work; counts the `passes` and `pictures` it encodes."""
    import torch

    torch.manual_seed(0)
    vae = tiny_vae(latent_channels=16).eval()
    vae.passes, vae.pictures, encode = 0, 0, vae.encode

    def counted(x: torch.Tensor, *rest: Any, **options: Any) -> Any:
        vae.passes, vae.pictures = vae.passes + 1, vae.pictures + len(x)
        return encode(x, *rest, **options)

    vae.encode = counted
    return vae


@pytest.fixture(scope="session")
def saved_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as stock diffusers saves it, with a name that says "embedded". Read only."""
    from diffusers import FluxPipeline

    folder = tmp_path_factory.mktemp("weights") / "storybook-tiny"
    FluxPipeline(**tiny_parts()).save_pretrained(folder)
    return folder


@pytest.fixture
def own_folder(saved_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved model that a test may damage."""
    return Path(shutil.copytree(saved_folder, tmp_path / "weights" / saved_folder.name))


@pytest.fixture(scope="session")
def _pipeline(saved_folder: Path) -> Any:
    from pipelines import ScaleDiTPipeline

    pipeline = ScaleDiTPipeline.from_pretrained(saved_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline(_pipeline: Any) -> Iterator[Any]:
    """The tiny model as `ScaleDiTPipeline`, fp32 on the CPU; painting must not change it."""
    before = {name: value.clone() for name, value in _pipeline.transformer.state_dict().items()}
    yield _pipeline
    after = _pipeline.transformer.state_dict()
    assert all(before[name].equal(after[name]) for name in before)
