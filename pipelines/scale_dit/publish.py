"""Turn averaged transformer weights into a model folder: `python -m pipelines.scale_dit.publish flux ...`.

The folder has the layout of diffusers' `FluxPipeline`; `pipelines.storybook.publish` writes its other parts.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from pipelines.storybook.guidance import FLUX_SHIFT
from pipelines.storybook.publish import SHARD, averaged


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


def publish_fast(state: Path, folder: Path) -> None:
    """The few-step LoRA in `fast-lora`, as `load_lora_weights` reads it."""
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from peft import LoraConfig, get_peft_model_state_dict

    from pipelines.scale_dit.train_fast import LAYERS, RANK
    from pipelines.scale_dit.train_flux import FLUX_CONFIG

    transformer = FluxTransformer2DModel(**FLUX_CONFIG)
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)))
    transformer.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    layers = get_peft_model_state_dict(transformer.half())
    FluxPipeline.save_lora_weights(folder / "fast-lora", transformer_lora_layers=layers)


def publish_lora(state: Path, folder: Path) -> None:
    """The adapter of enlarging steps in `scale-dit-lora`; the file's metadata tells its scope."""
    from safetensors.torch import save_file

    from pipelines.scale_dit.lora_routing import ADAPTER, SCOPE_KEY
    from pipelines.scale_dit.train_lora import SCOPE, released_name

    tensors = {
        released_name(name): value.half().contiguous()
        for name, value in averaged(state).items()
        if f".{ADAPTER}.weight" in name
    }
    target = folder / "scale-dit-lora"
    target.mkdir(parents=True, exist_ok=True)
    part = target / "part.safetensors"
    save_file(tensors, part, metadata={"format": "pt", SCOPE_KEY: SCOPE})
    os.replace(part, target / "pytorch_lora_weights.safetensors")


def publish_texture(state: Path, folder: Path) -> None:
    """The texture classifier as a model folder."""
    from pipelines.scale_dit.texture import TextureClassifier

    model = TextureClassifier()
    model.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    model.half().save_pretrained(folder)


PARTS = {"fast": publish_fast, "flux": publish_flux, "lora": publish_lora, "texture": publish_texture}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.scale_dit.publish", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="model folder")
    options = parser.parse_args(arguments)
    PARTS[options.part](options.state, options.folder)


if __name__ == "__main__":
    main()
