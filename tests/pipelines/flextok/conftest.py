"""Tiny random tokenizers of the real classes: 64 px, 16 patches, 16 tokens, 200 codes."""

import json
from pathlib import Path
from typing import Any

import pytest

SIZES = {
    "in_channels": 4, "patch_size": (2, 2), "dim": 32, "depth": 2, "head_dim": 16, "grid": (4, 4),
    "num_registers": 16, "levels": (8, 5, 5),
}  # fmt: skip


def tiny_models(build_vae: Any) -> dict[str, Any]:
    """vae, encoder, decoder with every gate open, so that all weights matter."""
    import torch

    from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel

    torch.manual_seed(0)
    encoder, decoder = FlexTokEncoderModel(**SIZES), FlexTokDecoderModel(**SIZES, max_timestep=1.0)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return {"vae": build_vae().eval(), "encoder": encoder.eval(), "decoder": decoder.eval()}


@pytest.fixture(scope="session")
def _flextok(build_vae):
    from pipelines import FlexTokPipeline

    pipeline = FlexTokPipeline(**tiny_models(build_vae), default_steps=3, default_guidance=2.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def flextok(_flextok):
    """A tokenizer; using it must not change its weights."""
    models = (_flextok.vae, _flextok.encoder, _flextok.decoder)
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    yield _flextok
    for model, state in zip(models, before, strict=True):
        assert all(state[name].equal(value) for name, value in model.state_dict().items())


@pytest.fixture
def fresh_flextok(build_vae):
    """A tokenizer that a test may change."""
    from pipelines import FlexTokPipeline

    pipeline = FlexTokPipeline(**tiny_models(build_vae), default_steps=3, default_guidance=2.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_generator(flextok: Any, parts: dict[str, Any] | None, **sizes: Any) -> Any:
    """FlexAR around a tokenizer; with text parts, or for 5 classes."""
    import torch

    from pipelines import FlexARPipeline
    from pipelines.flextok.transformer_flexar import FlexARModel

    torch.manual_seed(1)
    told = {"condition": "text", "text_dim": 16} if parts else {"condition": "class", "num_classes": 5}
    common = {"vocab_size": 200, "num_tokens": 16, "width": 32, "depth": 2, "num_heads": 2}
    model = FlexARModel(**{**common, **told, **sizes}).eval()
    text = {}
    if parts:
        text = {"text_encoder": parts["text_encoder_2"], "tokenizer": parts["tokenizer_2"]}
    pipeline = FlexARPipeline(
        model, flextok.vae, flextok.encoder, flextok.decoder, **text, default_steps=3, default_guidance=2.0
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def text_generator(_flextok, build_parts):
    return tiny_generator(_flextok, build_parts())


@pytest.fixture(scope="session")
def class_generator(_flextok):
    return tiny_generator(_flextok, None)


@pytest.fixture
def pictures():
    """Two smooth pictures of different shapes."""
    import numpy as np
    from PIL import Image

    found = []
    for width, height in ((64, 64), (90, 50)):
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        array = np.stack([x, y, (x + y) / 2], axis=-1)
        found.append(Image.fromarray((array * 255).astype(np.uint8)))
    return found


@pytest.fixture(scope="session")
def published_tree():
    """A config tree as published, for the tiny sizes."""
    parity = Path(__file__).parents[2] / "parity" / "data" / "flextok" / "checkpoint_format.config.json"
    return lambda: json.loads(parity.read_text())
