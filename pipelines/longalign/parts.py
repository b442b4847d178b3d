"""A folder with what LongAlign adds to a Stable Diffusion model: LoRAs, adapter, T5, and how they are used.

longalign.json                             rows of a block, how sentences are cut, names of the LoRAs
<name>/pytorch_lora_weights.safetensors    align, reward, lcm, reward_lcm: what there is of them
adapter/                                   `TextAdapter`, where the weights use T5
text_encoder_2/, tokenizer_2/              T5, where the folder brings its own

A folder `longalign` inside a model's may take T5 from the folder beside that model instead; the index then
names it, with checksums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.weights import LONGALIGN_T5, borrowed, lender_of

if TYPE_CHECKING:
    import torch

INDEX = "longalign.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_NAMES = ("align", "reward", "lcm", "reward_lcm")
T5_PARTS = ("text_encoder_2", "tokenizer_2")
FULL_PICTURE = ("align", "reward")  # what many steps use; few steps: align, lcm, reward_lcm
FEW_STEPS = ("align", "lcm", "reward_lcm")


@dataclass(frozen=True)
class LongAlignParts:
    """What `longalign.json` says.

    Attributes:
        mode: how the weights saw sentences cut: "official" or "smart".
        rows: rows of a block in training.
        loras: names of the LoRAs in the folder.
        t5: what the folder beside the model's lends, as `pipelines.weights.files_beside` reads it.
    """

    mode: str
    rows: int
    loras: tuple[str, ...]
    t5: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: str | Path) -> LongAlignParts:
        """Read the index of a folder.

        Raises:
            ValueError: there is no readable index, or it names what this code doesn't know.
        """
        path = Path(folder) / INDEX
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            parts = cls(str(data["mode"]), int(data["rows"]), tuple(data["loras"]), data.get(LONGALIGN_T5))
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
        facts = {name: value for name, value in asdict(self).items() if value is not None}
        part.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
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
    replace(parts, loras=loras).write(folder)


def t5_folder(folder: str | Path) -> Path | None:
    """Where the T5 of a LongAlign folder lies, its own or a lent one; None: the pipeline must bring it.

    Raises:
        ValueError: the folder that lends it is missing or holds other files.
    """
    folder = Path(folder)
    if (folder / T5_PARTS[0]).is_dir():
        return folder
    if LongAlignParts.read(folder).t5 is None:
        return None
    return lender_of(folder.resolve().parent, LONGALIGN_T5, "reads pages with the T5 of")


def t5_beside(t5: Path, folder: Path) -> dict[str, Any] | None:
    """What the index of a LongAlign folder has to say to use a T5 that lies beside its model.

    Args:
        t5: model folder with `text_encoder_2` and `tokenizer_2`.
    Returns:
        None: no folder of that name is there, or it holds other files, so T5 is copied.
    """
    folder = folder.resolve()
    if folder.name != "longalign":  # the index is looked for under this name
        return None
    return borrowed(t5, T5_PARTS, folder.parent.parent / t5.resolve().name)
