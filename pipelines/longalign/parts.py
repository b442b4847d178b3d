"""A folder with what LongAlign adds to a Stable Diffusion model: LoRAs, adapter, T5, and how they are used.

longalign.json                             rows of a block, how sentences are cut, names of the LoRAs
<name>/pytorch_lora_weights.safetensors    align, reward, lcm, reward_lcm: what there is of them
adapter/                                   `TextAdapter`, where the weights use T5
text_encoder_2/, tokenizer_2/              T5, where the folder brings its own
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

INDEX = "longalign.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_NAMES = ("align", "reward", "lcm", "reward_lcm")
FULL_PICTURE = ("align", "reward")  # what many steps use; few steps: align, lcm, reward_lcm
FEW_STEPS = ("align", "lcm", "reward_lcm")


@dataclass(frozen=True)
class LongAlignParts:
    """What `longalign.json` says.

    Attributes:
        mode: how the weights saw sentences cut: "official" or "smart".
        rows: rows of a block in training.
        loras: names of the LoRAs in the folder.
    """

    mode: str
    rows: int
    loras: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path) -> LongAlignParts:
        """Read the index of a folder.

        Raises:
            ValueError: there is no readable index, or it names what this code doesn't know.
        """
        path = Path(folder) / INDEX
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            parts = cls(str(data["mode"]), int(data["rows"]), tuple(data["loras"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not a LongAlign folder: {path} cannot be read ({error!r})") from error
        unknown = sorted(set(parts.loras) - set(LORA_NAMES))
        if unknown:
            raise ValueError(f"{path} names the LoRAs {unknown}; known are {LORA_NAMES}")
        return parts

    def write(self, folder: Path) -> None:
        """Write the index, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{INDEX}.part"
        part.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(part, folder / INDEX)


def read_lora(folder: str | Path, name: str) -> dict[str, torch.Tensor]:
    """Named tensors of one LoRA of a folder."""
    from safetensors.torch import load_file

    return load_file(Path(folder) / name / LORA_FILE)


def write_lora(folder: Path, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Store a LoRA in half precision and add its name to the folder's index, which must exist."""
    from safetensors.torch import save_file

    parts = LongAlignParts.read(folder)
    target = folder / name / LORA_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, part)
    os.replace(part, target)
    loras = tuple(known for known in LORA_NAMES if known in (*parts.loras, name))
    LongAlignParts(parts.mode, parts.rows, loras).write(folder)
