"""`compass.json`: what a folder of weights was trained with. Nothing in the weights themselves tells it.

The state dict of a CoMPaSS model is that of the stock model, so that loading it without TENOR, or TENOR on
weights that never saw it, is a silent mistake. The sidecar stands beside the weights and decides.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.compass.tenor_table import POSITION_MODES, SEGMENT

SIDECAR = "compass.json"
VERSION = 1
ADAPTER_FOLDERS = ("compass-lora", "compass")  # inside a model folder
MAX_LENGTH = {"unet": SEGMENT, "flux-double": 512}
# the authors' repositories; their weights were all trained with TENOR
_PUBLISHED = re.compile(r"blurgy(?:/|--)CoMPaSS-(FLUX|SD)[\w.]*", re.IGNORECASE)


@dataclass(frozen=True)
class Sidecar:
    """What weights were trained with.

    Attributes:
        tenor: with text positions.
        variant: "unet" or "flux-double".
        max_len: text tokens seen in training.
        position_mode: of the training; see `tenor_table.token_positions`.
    Raises:
        ValueError: an unknown value.
    """

    tenor: bool
    variant: str
    max_len: int
    position_mode: str = "continuous"
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"{SIDECAR} has version {self.version!r}; this program reads version {VERSION}")
        if not isinstance(self.tenor, bool) or self.variant not in MAX_LENGTH:
            raise ValueError(
                f"{SIDECAR} says tenor {self.tenor!r}, variant {self.variant!r}; "
                f"allowed are true or false and one of {tuple(MAX_LENGTH)}"
            )
        if self.position_mode not in POSITION_MODES or not isinstance(self.max_len, int) or self.max_len < 1:
            raise ValueError(
                f"{SIDECAR} says position_mode {self.position_mode!r}, max_len {self.max_len!r}; "
                f"allowed are one of {POSITION_MODES} and a whole number above 0"
            )


def read_sidecar(folder: Path | str) -> Sidecar | None:
    """The sidecar of a folder, or None where there is none.

    Raises:
        ValueError: it is there but can't be understood.
    """
    path = Path(folder) / SIDECAR
    if not path.is_file():
        return None
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        known = {name: values[name] for name in Sidecar.__dataclass_fields__ if name in values}
        return Sidecar(**known)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} can't be understood ({error})") from None


def own_weights(folder: Path | str) -> Path | None:
    """Where in a model folder the CoMPaSS adapter or UNet lies that belongs to it; None without one.

    Raises:
        ValueError: see `read_sidecar`.
    """
    places = (Path(folder) / name for name in ADAPTER_FOLDERS)
    return next((place for place in places if read_sidecar(place) is not None), None)


def write_sidecar(folder: Path | str, sidecar: Sidecar) -> Path:
    """Write the sidecar beside weights."""
    path = Path(folder) / SIDECAR
    part = path.with_name(SIDECAR + ".part")
    part.write_text(json.dumps(asdict(sidecar), indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def published_sidecar(name: str) -> Sidecar | None:
    """What is known of a repository of the authors; None for any other name."""
    match = _PUBLISHED.search(name)
    if match is None:
        return None
    variant = "flux-double" if match[1].upper() == "FLUX" else "unet"
    # released UNets saw positions 0 to 76 only: longer texts start again with each segment
    mode = "continuous" if variant == "flux-double" else "per_segment"
    return Sidecar(True, variant, MAX_LENGTH[variant], mode)
