"""The published files of VidRD as a folder that `VidRDPipeline` opens; offline, pickles are read safely.

`python -m pipelines.vidrd.convert_vidrd --checkpoint ModelT2V.pth --base STABLE_DIFFUSION_FOLDER --out FOLDER
[--vae vae_finetuned]`. The checkpoint is a training state whose `state_dict` has the prefixes `unet.`,
`text_encoder.` and possibly `vae.`; the base folder is Stable Diffusion 2.1-base in diffusers' layout.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel, is_temporal

# attention layers of autoencoders as diffusers called them up to 0.14
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
RESOLUTION = 256  # pixels the published weights were trained on


def unet_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys of the video UNet: as published, without norms of temporal attentions that aren't there."""
    return {
        key: value
        for key, value in state.items()
        if ".temp_norm." not in key or key.split(".temp_norm.")[0] + ".temp_attn.to_q.weight" in state
    }


def vae_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys of the autoencoder: the mid blocks' attention has new names."""
    renamed = {}
    for key, value in state.items():
        head, found, tail = key.partition(".mid_block.attentions.0.")
        name, dot, kind = tail.partition(".")
        renamed[f"{head}{found}{_OLD_ATTENTION.get(name, name)}{dot}{kind}"] = value
    return renamed


def text_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys of the text encoder: today's class has neither the prefix nor a buffer of positions."""
    names = {key: key.removeprefix("text_model.") for key in state}
    return {names[key]: value for key, value in state.items() if names[key] != "embeddings.position_ids"}


def split_checkpoint(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The parts `unet`, `text_encoder` and `vae` of a training state, prefixes removed.

    Raises:
        ValueError: a key with another prefix, or no UNet.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"unet": {}, "text_encoder": {}, "vae": {}}
    for key, value in state.items():
        part, _, name = key.partition(".")
        if part not in parts:
            raise ValueError(f"the checkpoint has a key {key!r}; expected prefixes: {', '.join(parts)}")
        parts[part][name] = value
    if not parts["unet"]:
        raise ValueError("the checkpoint has no key with the prefix 'unet.'")
    return parts


def load_weights(model: Any, state: Mapping[str, torch.Tensor], what: str) -> list[str]:
    """Load; temporal layers that the state lacks keep their initial values and are listed.

    Raises:
        ValueError: any other missing key, or one that the model doesn't know.
    """
    try:
        missing, unexpected = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # tensors of another shape
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"the {what} doesn't fit: {first}") from error
    lost = [key for key in missing if not is_temporal(key)]
    if lost or unexpected:
        key = (lost + unexpected)[0]
        raise ValueError(
            f"the {what} doesn't fit: {len(lost)} keys are missing, {len(unexpected)} are unknown, as {key!r}"
        )
    return missing


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, or of a pickle that holds nothing but tensors and plain values.

    Raises:
        ValueError: neither.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises almost anything
        raise ValueError(f"{path} can't be read as weights ({error!s:.120})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def convert(
    checkpoint: Path, base: Path, out: Path, vae_folder: Path | None = None, **options: Any
) -> list[str]:
    """Write the folder.

    Args:
        checkpoint: `ModelT2V.pth`. base: Stable Diffusion folder. vae_folder: `vae_finetuned`.
        options: of `VidRDUNet3DModel`; the published weights have the defaults.
    Returns:
        Temporal keys that the checkpoint lacks (they start at zero).
    Raises:
        ValueError: files that don't fit.
    """
    parts = split_checkpoint(read_state(checkpoint))
    image = UNet2DConditionModel.load_config(base, subfolder="unet")
    unet = VidRDUNet3DModel.from_unet2d(UNet2DConditionModel.from_config(image), **options)
    unet.register_to_config(sample_size=RESOLUTION // 8)
    fresh = load_weights(unet, unet_keys(parts["unet"]), "UNet")
    text = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
    if parts["text_encoder"]:
        load_weights(text, text_keys(parts["text_encoder"]), "text encoder")
    vae: Any = AutoencoderKL.from_pretrained(base, subfolder="vae")
    if vae_folder is not None:
        config = json.loads((vae_folder / "config.json").read_text(encoding="utf-8"))
        vae = VidRDAutoencoderKL.from_config({k: v for k, v in config.items() if not k.startswith("_")})
        stored = sorted(vae_folder.glob("diffusion_pytorch_model.*"))
        if not stored:
            raise ValueError(f"{vae_folder} holds no diffusion_pytorch_model file")
        load_weights(vae, vae_keys(read_state(stored[-1])), "autoencoder")
    elif parts["vae"]:
        load_weights(vae, vae_keys(parts["vae"]), "autoencoder")
    scheduler = DDIMScheduler.from_pretrained(base, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    from pipelines.vidrd.pipeline_vidrd import VidRDPipeline

    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    VidRDPipeline(vae, text, tokenizer, unet, scheduler).save_pretrained(part)
    part.rename(out)
    return fresh


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.vidrd.convert_vidrd", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="ModelT2V.pth")
    parser.add_argument("--base", type=Path, required=True, help="Stable Diffusion 2.1-base folder")
    parser.add_argument("--vae", type=Path, help="folder vae_finetuned")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"{options.out} exists already")
    try:
        fresh = convert(options.checkpoint, options.base, options.out, options.vae)
    except ValueError as error:
        parser.error(str(error))
    print(f"wrote {options.out}; {len(fresh)} temporal weights start at zero")


if __name__ == "__main__":
    main()
