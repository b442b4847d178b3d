"""Turn averaged weights of training states into model folders: `python -m pipelines.storybook.publish vae`.

Everything is stored in half precision and as safetensors; the manifest is renewed with the entry given.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from pipelines.storybook.cards import write_card
from pipelines.weights import MANIFEST, list_files

SHARD = "9MB"
LICENSE = "Apache-2.0"


def averaged(state: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Averaged weights of a run, those below `prefix` with the prefix removed."""
    tensors = torch.load(state / "ema.pt", map_location="cpu", weights_only=True)
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def publish_vae(state: Path, folder: Path) -> None:
    """Write the autoencoder, with latents of mean 0 and deviation 1 folded into its 1x1 convolutions.

    Stock pipelines then need neither a scaling factor nor a shift (Stable Diffusion would ignore the shift).
    """
    from diffusers import AutoencoderKL

    from pipelines.storybook.train_vae import VAE_CONFIG

    vae = AutoencoderKL(**VAE_CONFIG)
    vae.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    fold_statistics(vae, *latent_statistics(vae))
    vae.half().save_pretrained(folder / "vae", max_shard_size=SHARD)


def publish_vae_decoder(state: Path, folder: Path) -> None:
    """Replace the autoencoder by the run that went on with its decoder; its latents stay as folded."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / "vae")
    vae.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    vae.half().save_pretrained(folder / "vae", max_shard_size=SHARD)


@torch.no_grad()
def latent_statistics(vae: torch.nn.Module, count: int = 192) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each latent channel over whole drawings, `[16]` each."""
    from pipelines.storybook.dataset import CropMix, crops, to_tensor
    from pipelines.storybook.scene import SceneMix

    x = to_tensor(crops(77, 0, count, SceneMix(), CropMix(((128, 1.0),))))
    means = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(16)])
    return means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))


@torch.no_grad()
def fold_statistics(vae: Any, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Make latents (z - mean) / deviation without changing what the autoencoder reconstructs."""
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:channels] /= deviation[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / deviation
    encode.bias[channels:] -= 2 * deviation.log()  # log variance
    decode.bias += (decode.weight[:, :, 0, 0] * mean).sum(1)
    decode.weight *= deviation[None, :, None, None]


def publish_t5(state: Path, folder: Path) -> None:
    from pipelines.storybook.text import build_t5, build_t5_tokenizer, save_text_parts

    tokenizer = build_t5_tokenizer()
    model = build_t5(tokenizer)
    model.load_state_dict({name: value.float() for name, value in averaged(state, "encoder.").items()})
    save_text_parts(folder, model, tokenizer, "text_encoder_2", "tokenizer_2")


def publish_clip(state: Path, folder: Path) -> None:
    """The whole model with its tokenizer (`storybook-clip`)."""
    from pipelines.storybook.text import build_clip, build_clip_tokenizer, save_text_parts

    tokenizer = build_clip_tokenizer()
    model = build_clip(tokenizer)
    model.load_state_dict({name: value.float() for name, value in averaged(state, "clip.").items()})
    save_text_parts(folder, model, tokenizer, ".", ".")


def publish_sd(state: Path, folder: Path) -> None:
    """UNet, scheduler and index of a `StableDiffusionPipeline`; the other parts are copied."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from pipelines.storybook.train_sd import SCHEDULE, UNET_CONFIG

    unet = UNet2DConditionModel(**UNET_CONFIG)
    unet.load_state_dict({name: value.float() for name, value in averaged(state, "unet.").items()})
    shutil.rmtree(folder / "unet", ignore_errors=True)
    unet.half().save_pretrained(folder / "unet", max_shard_size=SHARD)
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def copy_parts(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Copies of a model folder's parts: stock folders hold everything they need themselves."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(source / name, folder / name)


def publish_clip_text(state: Path, folder: Path) -> None:
    """The text tower alone, from the run that trains it on text."""
    from transformers import CLIPTextModel

    from pipelines.storybook.text import build_clip, build_clip_tokenizer, save_text_parts

    tokenizer = build_clip_tokenizer()
    text = CLIPTextModel(build_clip(tokenizer).config.text_config)
    text.load_state_dict({name: value.float() for name, value in averaged(state, "text.").items()})
    save_text_parts(folder, text, tokenizer, "text_encoder", "tokenizer")


def renew_manifest(weights: Path, name: str, entry: dict[str, Any]) -> None:
    """Put a model's entry (class, recipe, metrics) with the checksums of its files into the manifest.

    The model's card is written from the same entry.

    Raises:
        ValueError: `cards.py` doesn't say what the model is for; nothing is written then.
    """
    path = weights / MANIFEST
    entry = {**entry, "license": LICENSE}
    write_card(weights / entry["folder"], name, entry)
    manifest = json.loads(path.read_text()) if path.exists() else {"models": {}}
    files = list_files(weights / entry["folder"])
    total = sum(file["bytes"] for file in files.values())
    manifest["models"][name] = {**entry, "bytes": total, "files": files}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    os.replace(part, path)


PARTS: dict[str, Callable[[Path, Path], None]] = {
    "clip": publish_clip,
    "clip-text": publish_clip_text,
    "sd": publish_sd,
    "t5": publish_t5,
    "vae": publish_vae,
    "vae-decoder": publish_vae_decoder,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.storybook.publish", description=__doc__)
    parser.add_argument("part", choices=(*PARTS, "manifest"))
    parser.add_argument(
        "--state", type=Path, help="state folder of the run (manifest: JSON file of the entry)"
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="model folder (manifest: its weights directory)"
    )
    parser.add_argument("--parts", type=Path, help="sd: model folder whose vae and text encoder are copied")
    parser.add_argument("--name", help="manifest: name of the model")
    options = parser.parse_args(arguments)
    if options.part == "manifest":
        renew_manifest(options.folder, options.name, json.loads(options.state.read_text()))
        return
    if options.parts is not None:
        copy_parts(options.parts, options.folder, ("vae", "text_encoder", "tokenizer"))
    PARTS[options.part](options.state, options.folder)


if __name__ == "__main__":
    main()
