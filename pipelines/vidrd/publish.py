"""Averaged weights to parts of the `storybook-video` folder: `python -m pipelines.vidrd.publish video ...`.

Where the image model lies beside the folder, it gets the sampler, the layers along time and what else
training changed (`image_model.py`); otherwise it holds all parts of a `VidRDPipeline`. "index" names the
image model anew after it was replaced: measure again then, the layers were trained over other weights.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from pipelines.storybook.publish import SHARD, averaged
from pipelines.storybook.text import save_text_model
from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.image_model import LAYERS, image_model_beside, open_unet, save_layers
from pipelines.vidrd.interpolation import interpolation_unet
from pipelines.vidrd.objective import from_pure_noise, load_sampler
from pipelines.vidrd.train_video import TEMPORAL
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel, is_temporal
from pipelines.weights import IMAGE_MODEL

COPIED = ("text_encoder", "tokenizer", "vae")


def publish_video(state: Path, folder: Path, parts: Path) -> None:
    """The UNet, and what else the folder needs; an autoencoder and a text encoder that are there stay.

    Raises:
        ValueError: the image model isn't beside the folder, which has nothing but layers for its decoder.
    """
    image = UNet2DConditionModel.from_pretrained(parts / "unet")
    unet = VidRDUNet3DModel.from_unet2d(image, **TEMPORAL)
    trained = averaged(state)
    kept = untouched(image, trained)
    unet.load_state_dict({name: value.float() for name, value in trained.items()} | kept)
    folder.mkdir(parents=True, exist_ok=True)
    if image_model_beside(parts, folder):
        _replace(folder / "unet", lambda part: save_layers(unet, part, kept))
    else:
        if (folder / "vae" / LAYERS).exists():
            raise ValueError(f"{folder / 'vae'} needs the image model beside it; publish into another folder")
        for name in COPIED:
            if name == "tokenizer" or not (folder / name).exists():  # what was trained already stays
                shutil.rmtree(folder / name, ignore_errors=True)
                shutil.copytree(parts / name, folder / name)
        _save(unet, folder / "unet")
    _replace(folder / "scheduler", from_pure_noise(load_sampler(parts)).save_pretrained)
    write_index(folder, parts)


def publish_text(state: Path, folder: Path, parts: Path) -> None:
    """The text encoder that learned words of motion; the tokenizer stays that of `parts`."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel.from_pretrained(parts / "text_encoder")
    encoder.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "text_encoder", lambda part: save_text_model(part, encoder))


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
    temporal = {name: value.float() for name, value in trained.items() if is_temporal(name)}
    _, unexpected = vae.load_state_dict(temporal, strict=False)
    assert not unexpected
    is_whole = (folder / "unet").exists() and not (folder / "unet" / LAYERS).exists()
    if not is_whole and image_model_beside(parts, folder):
        _replace(folder / "vae", lambda part: save_layers(vae, part, vae.state_dict().keys() - temporal))
    else:
        _save(vae, folder / "vae")
    write_index(folder, parts)


def publish_interpolation(state: Path, folder: Path, parts: Path) -> None:
    """The masked-context model, into `interpolator`; `parts` is the folder that its run started from."""
    model = interpolation_unet(open_unet(parts))
    model.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    _save(model, folder / "interpolator")


def _save(model: Any, folder: Path) -> None:
    """All weights in half precision."""
    _replace(folder, lambda part: model.half().save_pretrained(part, max_shard_size=SHARD))


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder whole, in place of what was there."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def write_index(folder: Path, parts: Path) -> None:
    """The `model_index.json` of a `VidRDPipeline`, with the sampler's class as `parts` names it.

    Raises:
        ValueError: the folder has layers along time alone, and `parts` doesn't lie beside it.
    """
    named = json.loads((parts / "model_index.json").read_text(encoding="utf-8"))
    vae, lent = ["diffusers", "AutoencoderKL"], {}
    if any((folder / part / LAYERS).exists() for part in ("unet", "vae")):
        beside = image_model_beside(parts, folder)
        if beside is None:
            raise ValueError(f"{parts} doesn't lie beside {folder}, whose layers need it there")
        lent = {IMAGE_MODEL: beside}
    config = folder / "vae/config.json"
    if config.exists() and json.loads(config.read_text())["_class_name"] == "VidRDAutoencoderKL":
        vae = ["pipelines.vidrd.autoencoder_vidrd", "VidRDAutoencoderKL"]
    index = {
        "_class_name": "VidRDPipeline",
        "_diffusers_version": "0.42.0",
        **lent,
        "scheduler": named["scheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["pipelines.vidrd.unet_vidrd", "VidRDUNet3DModel"],
        "vae": vae,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


PARTS: dict[str, Callable[[Path, Path, Path], None]] = {
    "text": publish_text,
    "video": publish_video,
    "decoder": publish_decoder,
    "interpolation": publish_interpolation,
    "index": lambda state, folder, parts: write_index(folder, parts),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.vidrd.publish", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--state", type=Path, help="state folder of the run (all but index)")
    parser.add_argument("--folder", type=Path, required=True, help="model folder to write")
    parser.add_argument("--parts", type=Path, required=True, help="model folder that the run was given")
    options = parser.parse_args(arguments)
    if options.state is None and options.part != "index":
        parser.error(f"{options.part} needs --state")
    PARTS[options.part](options.state, options.folder, options.parts)
    for path in sorted(options.folder.rglob("*.safetensors")):
        print(f"{path.relative_to(options.folder)}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
