"""One autoencoder for several model folders.

A folder that stock diffusers opens holds everything it needs. A folder that only classes of this project
open may leave its `vae` out when a folder beside it holds the very same files. Its `model_index.json` says
so, with their checksums; loading compares them, and saving such a pipeline elsewhere writes the autoencoder
whole.
"""

from pathlib import Path
from typing import Any

from pipelines.weights import SHARED_VAE, borrowed, lender_of

LENDER = "storybook-sd"
PART = "vae"


def vae_beside(vae: Path, folder: Path) -> dict[str, Any] | None:
    """What the index of `folder` has to say (under `SHARED_VAE`) to use the autoencoder beside it.

    Args:
        vae: folder of the autoencoder that the model was trained on.
        folder: model folder.
    Returns:
        None: `storybook-sd` isn't beside the folder or holds another one, so the autoencoder is copied.
    """
    return borrowed(vae.parent, [vae.name], folder.resolve().parent / LENDER)


def load_shared_vae(folder: str | Path, dtype: Any = None) -> Any:
    """The autoencoder that a folder takes from the one beside it; None: it has its own.

    Args:
        dtype: as for `DiffusionPipeline.from_pretrained`, one or by component. Default: float32.
    Raises:
        ValueError: the folder beside it is missing or holds other files.
    """
    lender = lender_of(folder, SHARED_VAE, "has no autoencoder of its own and uses that of")
    if lender is None:
        return None
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(lender / PART, use_safetensors=True, **dtype_option(dtype, PART))


def dtype_option(dtype: Any, part: str) -> dict[str, Any]:
    """The option with which one part is opened in the dtype that a whole pipeline was asked in."""
    if isinstance(dtype, dict):
        dtype = dtype.get(part, dtype.get("default"))
    return {} if dtype is None else {"dtype": dtype}


def open_vae(folder: Path) -> Any:
    """The autoencoder of a model folder, its own or the one beside it."""
    from diffusers import AutoencoderKL

    return load_shared_vae(folder) or AutoencoderKL.from_pretrained(folder / PART)


class SharesVae:
    """Mixed in before `DiffusionPipeline`: its folders may use the autoencoder of the folder beside them."""

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Any:
        """As diffusers' method.

        Raises:
            ValueError: see `load_shared_vae`.
        """
        if options.get("vae") is None:
            dtype = options.get("dtype", options.get("torch_dtype"))
            if (vae := load_shared_vae(name, dtype)) is not None:
                options["vae"] = vae
        return super().from_pretrained(name, **options)  # type: ignore[misc]
