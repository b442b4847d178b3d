"""Averaged weights to parts of the `storybook-video` folder: `python -m pipelines.vidrd.publish video ...`.

The folder has the layout of `VidRDPipeline`: the image model's text encoder, tokenizer and sampler, a video
UNet, and an autoencoder that first is the image model's (where the folder beside it holds the same one, the
index names that instead of a copy) and later has temporal layers.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from pipelines.shared_vae import vae_beside
from pipelines.storybook.publish import SHARD, averaged
from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.interpolation import interpolation_unet
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel
from pipelines.weights import SHARED_VAE

COPIED = ("text_encoder", "tokenizer", "scheduler")


def publish_video(state: Path, folder: Path, parts: Path) -> None:
    """The UNet, and copies of what the image model brings; an autoencoder that is there already stays."""
    image = UNet2DConditionModel.from_pretrained(parts / "unet")
    unet = VidRDUNet3DModel.from_unet2d(image, add_temp_embed=False)
    trained = averaged(state)
    unet.load_state_dict({name: value.float() for name, value in trained.items()} | untouched(image, trained))
    folder.mkdir(parents=True, exist_ok=True)
    needs_vae = not (folder / "vae").exists() and vae_beside(parts / "vae", folder) is None
    for name in (*COPIED, *(("vae",) if needs_vae else ())):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(parts / name, folder / name)
    _save(unet, folder / "unet")
    write_index(folder, parts)


def untouched(image: Any, trained: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Image weights that training left alone, bit for bit as the image model has them.

    A run computes in bf16, so its copy of a frozen weight is that weight rounded.
    """
    return {
        name: value
        for name, value in image.state_dict().items()
        if trained[name].float().equal(value.to(torch.bfloat16).to(trained[name].dtype).float())
    }


def publish_decoder(state: Path, folder: Path, parts: Path) -> None:
    """The autoencoder with its temporal layers; everything else of it stays as in `parts`."""
    vae = VidRDAutoencoderKL.from_image_vae(AutoencoderKL.from_pretrained(parts / "vae"))
    trained = averaged(state, "vae.")
    temporal = {name: value.float() for name, value in trained.items() if ".temp_convs." in name}
    _, unexpected = vae.load_state_dict(temporal, strict=False)
    assert not unexpected
    _save(vae, folder / "vae")
    write_index(folder, parts)


def publish_interpolation(state: Path, folder: Path, parts: Path) -> None:
    """The masked-context model, into `interpolator`; `parts` is the folder that its run started from."""
    model = interpolation_unet(VidRDUNet3DModel.from_pretrained(parts / "unet"))
    model.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    _save(model, folder / "interpolator")


def _save(model: Any, folder: Path) -> None:
    """In half precision, in place of what was there."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.half().save_pretrained(part, max_shard_size=SHARD)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def write_index(folder: Path, parts: Path) -> None:
    """The `model_index.json` of a `VidRDPipeline`, with the sampler's class as `parts` names it."""
    named = json.loads((parts / "model_index.json").read_text(encoding="utf-8"))
    vae, shared = ["diffusers", "AutoencoderKL"], None
    if not (folder / "vae").exists():
        shared = vae_beside(parts / "vae", folder)
    elif json.loads((folder / "vae/config.json").read_text())["_class_name"] == "VidRDAutoencoderKL":
        vae = ["pipelines.vidrd.autoencoder_vidrd", "VidRDAutoencoderKL"]
    index = {
        "_class_name": "VidRDPipeline",
        "_diffusers_version": "0.42.0",
        **({SHARED_VAE: shared} if shared else {}),
        "scheduler": named["scheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["pipelines.vidrd.unet_vidrd", "VidRDUNet3DModel"],
        "vae": vae,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


PARTS = {"video": publish_video, "decoder": publish_decoder, "interpolation": publish_interpolation}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.vidrd.publish", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="model folder to write")
    parser.add_argument("--parts", type=Path, required=True, help="model folder that the run was given")
    options = parser.parse_args(arguments)
    PARTS[options.part](options.state, options.folder, options.parts)


if __name__ == "__main__":
    main()
