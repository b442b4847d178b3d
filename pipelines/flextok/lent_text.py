"""The text encoder of a generator that only our classes open: its own, or that of the model folder beside it.

As with the autoencoder (`pipelines.shared_vae`), the folder's `model_index.json` names the files with their
checksums; loading compares them, and saving such a pipeline elsewhere writes everything.
"""

from pathlib import Path
from typing import Any

from pipelines.shared_vae import dtype_option
from pipelines.weights import SHARED_TEXT, borrowed, lender_of

PARTS = ("text_encoder_2", "tokenizer_2")  # of the lender


def text_beside(parts: Path, folder: Path) -> dict[str, Any] | None:
    """What the index of `folder` has to say (under `SHARED_TEXT`) to use the text encoder of `parts`.

    Returns:
        None: `parts` isn't beside the folder, or what is there under its name holds other files.
    """
    return borrowed(parts, PARTS, folder.resolve().parent / parts.resolve().name)


def load_lent_text(folder: Path, dtype: Any = None) -> dict[str, Any]:
    """`text_encoder` and `tokenizer` that a folder takes from the one beside it; empty: it has its own.

    Args:
        dtype: as for `DiffusionPipeline.from_pretrained`, one or by component. Default: float32.
    Raises:
        ValueError: the folder beside it is missing or holds other files.
    """
    lender = lender_of(folder, SHARED_TEXT, "has no text encoder of its own and uses that of")
    if lender is None:
        return {}
    from transformers import T5EncoderModel, T5Tokenizer

    options = dtype_option(dtype, "text_encoder")
    encoder = T5EncoderModel.from_pretrained(lender / PARTS[0], use_safetensors=True, **options)
    return {"text_encoder": encoder, "tokenizer": T5Tokenizer.from_pretrained(lender / PARTS[1])}
