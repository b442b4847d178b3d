"""First stages in a few steps without guidance, by weights that the model's adapter for it is part of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.compose.spatial import add_compass

FEW = 8  # as many steps or fewer are painted so, where the model has the adapter
HIGH_RES_STEPS = 4  # of each further stage then
ADAPTER = "fast-lora"  # its folder, inside that of the model


def is_quick(folder: Path, steps: int) -> bool:
    """Whether a first stage of so many steps is painted by the adapter. Free of torch: forecasts ask, too."""
    return steps <= FEW and (folder / ADAPTER).is_dir()


def load_quick(pipeline: Any, folder: Path, compass: Path | None = None) -> Any:
    """The pipeline with a transformer of its own into which the adapter is melted; None without one.

    A second copy of the weights, since what is melted in cannot be switched off for the stages after the
    first. Nothing that other adapters do to the first copy reaches it, so CoMPaSS is put in here, too: it
    decides what the first stage shows.

    Args:
        compass: see `spatial.add_compass`.
    """
    if not (folder / ADAPTER).is_dir():
        return None
    import torch

    transformer = type(pipeline.transformer).from_pretrained(
        folder / "transformer", torch_dtype=torch.float32
    )
    quick = type(pipeline)(**{**pipeline.components, "transformer": transformer})
    quick.load_lora_weights(folder / ADAPTER)
    quick.fuse_lora()
    quick.unload_lora_weights()
    add_compass(quick, folder, compass)
    transformer.to(pipeline.device, pipeline.transformer.dtype)
    return quick
