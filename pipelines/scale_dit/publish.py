"""Turn averaged transformer weights into a model folder: `python -m pipelines.scale_dit.publish flux ...`.

The folder has the layout of diffusers' `FluxPipeline`; `pipelines.storybook.publish` writes its other parts.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.storybook.guidance import FLUX_SHIFT
from pipelines.storybook.publish import SHARD, averaged
from pipelines.training.low_rank import within_size


def publish_flux(state: Path, folder: Path) -> None:
    """The transformer and the scheduler; 64 tokens of 16 px are the base size of 128 px."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    from pipelines.scale_dit.train_flux import FLUX_CONFIG

    transformer = FluxTransformer2DModel(**FLUX_CONFIG)
    transformer.load_state_dict(
        {name: value.float() for name, value in averaged(state, "transformer.").items()}
    )
    shutil.rmtree(folder / "transformer", ignore_errors=True)
    transformer.half().save_pretrained(folder / "transformer", max_shard_size=SHARD)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=FLUX_SHIFT, base_image_seq_len=16, max_image_seq_len=64)
    scheduler.save_pretrained(folder / "scheduler")
    write_index(folder)


def write_index(folder: Path) -> None:
    """The `model_index.json` that makes a folder with all seven parts a `FluxPipeline`."""
    index = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.42.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def publish_fast(state: Path, folder: Path, megabytes: float | None = None) -> None:
    """The few-step LoRA in `fast-lora`, as `load_lora_weights` reads it."""
    from diffusers import FluxTransformer2DModel
    from peft import LoraConfig, get_peft_model_state_dict

    from pipelines.scale_dit.train_fast import LAYERS, RANK
    from pipelines.scale_dit.train_flux import FLUX_CONFIG

    transformer = FluxTransformer2DModel(**FLUX_CONFIG)
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)))
    transformer.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    layers = get_peft_model_state_dict(transformer)
    tensors = {f"transformer.{name}": value for name, value in layers.items()}
    _save_adapter(tensors, folder / "fast-lora", {}, megabytes)


def publish_lora(state: Path, folder: Path, megabytes: float | None = None) -> None:
    """The adapter of enlarging steps in `scale-dit-lora`; the file's metadata tells its scope."""
    from pipelines.scale_dit.lora_routing import ADAPTER, SCOPE_KEY
    from pipelines.scale_dit.train_lora import SCOPE, released_name

    tensors = {
        released_name(name): value for name, value in averaged(state).items() if f".{ADAPTER}.weight" in name
    }
    _save_adapter(tensors, folder / "scale-dit-lora", {SCOPE_KEY: SCOPE}, megabytes)


def _save_adapter(
    tensors: dict[str, torch.Tensor], folder: Path, facts: dict[str, str], megabytes: float | None
) -> None:
    """Write an adapter in half precision, whole or in its most important directions."""
    from safetensors.torch import save_file

    if megabytes is not None:
        tensors, kept = within_size(tensors, round(megabytes * 1e6))
        print(f"{kept:.2%} of the adapter's squared norm are kept")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "part.safetensors"
    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    save_file(halves, part, metadata={"format": "pt", **facts})
    os.replace(part, folder / "pytorch_lora_weights.safetensors")


def publish_texture(state: Path, folder: Path) -> None:
    """The texture classifier as a model folder."""
    from pipelines.scale_dit.texture import TextureClassifier

    model = TextureClassifier()
    model.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    model.half().save_pretrained(folder)


PARTS: dict[str, Callable[..., None]] = {
    "fast": publish_fast,
    "flux": publish_flux,
    "lora": publish_lora,
    "texture": publish_texture,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.scale_dit.publish", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="model folder")
    parser.add_argument(
        "--megabytes", type=float, help="fast, lora: keep the most important directions within this size"
    )
    options = parser.parse_args(arguments)
    if options.megabytes is None:
        PARTS[options.part](options.state, options.folder)
        return
    if options.part not in ("fast", "lora"):
        parser.error("--megabytes is for fast and lora")
    try:
        PARTS[options.part](options.state, options.folder, options.megabytes)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
