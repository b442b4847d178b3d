"""A video model over the image model in the folder beside it.

Training leaves most image layers as they are, so a published folder need not hold them again: it has its
sampler, the layers along time and those that were trained on (`LAYERS` in `unet`, and in `vae` where the
decoder has them too), a text encoder where that learned words of motion, and its index names the folder with
everything else, with checksums. Layers fit the
weights that they were trained over, so a folder with other weights is refused. A folder that holds all parts
is opened as ever, and saving a pipeline writes all parts.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from pipelines.shared_vae import dtype_option
from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel, is_temporal
from pipelines.weights import IMAGE_MODEL, borrowed, lender_of

LAYERS = "own_layers.safetensors"
LENT = ("text_encoder", "tokenizer", "unet", "vae")
TEMPORAL_OPTIONS = (
    "add_temp_conv", "add_temp_embed", "temp_embed_at", "add_temp_attn_only_on_upblocks",
    "add_motion_embed", "knows_context", "prepend_first_frame",
)  # fmt: skip


def image_model_beside(parts: Path, folder: Path) -> dict[str, Any] | None:
    """What the index of `folder` has to say (under `IMAGE_MODEL`) to lie over the image model beside it.

    Args:
        parts: folder of the image model that the video model was trained over.
        folder: folder of the video model.
    Returns:
        None: no folder of that name is beside it, or it holds other files.
    """
    return borrowed(parts, LENT, folder.resolve().parent / parts.resolve().name)


def image_folder(folder: str | Path) -> Path | None:
    """Where the image model of a video model's folder lies; None: the folder holds all parts itself.

    Raises:
        ValueError: the folder beside it is missing or holds other weights.
    """
    return lender_of(folder, IMAGE_MODEL, "holds layers along time that were trained over the")


def text_folder(folder: Path) -> Path:
    """Which folder holds the text encoder of a video model: its own, or its image model's."""
    return folder if (folder / "text_encoder").is_dir() else image_folder(folder) or folder


def save_layers(model: Any, folder: Path, lent: Collection[str]) -> None:
    """All weights of a model but those that the image model lends, in half precision, with its configuration.

    Args:
        lent: names of the weights that are the image model's own.
    """
    model.save_config(folder)
    own = {name: value for name, value in model.state_dict().items() if name not in lent}
    save_file({name: value.half().contiguous() for name, value in own.items()}, folder / LAYERS)


def open_unet(folder: Path, **options: Any) -> VidRDUNet3DModel:
    """The UNet of a video model's folder; options as of `from_pretrained`."""
    return _open_unet(folder, image_folder(folder), **options)


def open_autoencoder(folder: Path, **options: Any) -> AutoencoderKL | VidRDAutoencoderKL:
    """The autoencoder of a video model's folder; it looks along time where the folder has layers for that."""
    return _open_autoencoder(folder, image_folder(folder), **options)


def _open_unet(folder: Path, lender: Path | None, **options: Any) -> VidRDUNet3DModel:
    if lender is None:
        return VidRDUNet3DModel.from_pretrained(folder / "unet", **options)
    image = UNet2DConditionModel.from_pretrained(lender / "unet", use_safetensors=True, **options)
    config = VidRDUNet3DModel.load_config(folder / "unet")
    own = {name: config[name] for name in TEMPORAL_OPTIONS if name in config}  # older folders know fewer
    return _with_layers(VidRDUNet3DModel.from_unet2d(image, **own), folder / "unet")


def _open_autoencoder(
    folder: Path, lender: Path | None, **options: Any
) -> AutoencoderKL | VidRDAutoencoderKL:
    if lender is None:
        config = json.loads((folder / "vae/config.json").read_text(encoding="utf-8"))
        kind = VidRDAutoencoderKL if config["_class_name"] == "VidRDAutoencoderKL" else AutoencoderKL
        return kind.from_pretrained(folder / "vae", **options)
    vae = AutoencoderKL.from_pretrained(lender / "vae", use_safetensors=True, **options)
    if not (folder / "vae").is_dir():
        return vae
    return _with_layers(VidRDAutoencoderKL.from_image_vae(vae), folder / "vae")


def _with_layers(model: Any, folder: Path) -> Any:
    """Put the layers of a folder into a model.

    Raises:
        ValueError: the file is damaged, or its layers are others than the model's.
    """
    try:
        layers = load_file(folder / LAYERS)
    except Exception as error:  # safetensors raises its own kind
        raise ValueError(f"{folder / LAYERS} can't be read ({error!s:.100})") from error
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    missing = {name for name in shapes if is_temporal(name)} - layers.keys()
    if missing or any(value.shape != shapes.get(name) for name, value in layers.items()):
        raise ValueError(f"{folder / LAYERS} holds other layers than its configuration says")
    model.load_state_dict(layers, strict=False)
    return model.eval()


class LiesOverImageModel:
    """Mixed in before `DiffusionPipeline`: folders may hold the layers along time alone."""

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Any:
        """As diffusers' method.

        Raises:
            ValueError: see `image_folder`.
        """
        folder = Path(name)
        if (lender := image_folder(folder)) is not None:
            dtype = options.get("dtype", options.get("torch_dtype"))
            options = {**_parts(folder, lender, dtype, options.keys()), **options}
        return super().from_pretrained(name, **options)  # type: ignore[misc]


def _parts(folder: Path, lender: Path, dtype: Any, given: Any) -> dict[str, Any]:
    """All parts of a video model but those that are `given`."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from pipelines.vidrd.objective import load_sampler

    opened = {
        "scheduler": lambda: load_sampler(folder),
        "text_encoder": lambda: CLIPTextModel.from_pretrained(
            text_folder(folder) / "text_encoder", **dtype_option(dtype, "text_encoder")
        ),
        "tokenizer": lambda: CLIPTokenizer.from_pretrained(lender / "tokenizer"),
        "unet": lambda: _open_unet(folder, lender, **dtype_option(dtype, "unet")),
        "vae": lambda: _open_autoencoder(folder, lender, **dtype_option(dtype, "vae")),
    }
    return {name: opener() for name, opener in opened.items() if name not in given}
