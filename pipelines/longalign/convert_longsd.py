"""The published LongSD files into a LongAlign folder, offline:

    python -m pipelines.longalign.convert_longsd --unet SD15/unet --align s28750_lora_vis.pt \\
        --reward sd15-reward-3750.pt --adapter s28750_adapter --out longsd

The `.pt` files are flat lists of tensors without names; they are read as plain tensors (`weights_only`).
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from pipelines.longalign.lora import named_from_list
from pipelines.longalign.parts import LongAlignParts, write_lora
from pipelines.longalign.text_adapter import TextAdapter


def read_flat_list(path: Path) -> list[torch.Tensor]:
    """The tensors of a published LoRA file.

    Raises:
        ValueError: the file holds something else than a list of tensors.
    """
    flat = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(flat, list | tuple) or not all(isinstance(item, torch.Tensor) for item in flat):
        raise ValueError(f"{path} holds a {type(flat).__name__}, expected a flat list of tensors")
    return list(flat)


def convert(unet_config: dict[str, Any], loras: dict[str, Path], adapter: Path | None, out: Path) -> None:
    """Write a LongAlign folder with named LoRAs for a U-Net of that config, in official mode."""
    from diffusers import UNet2DConditionModel

    if out.exists():
        raise ValueError(f"{out} exists already")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
    named = {name: named_from_list(read_flat_list(path), unet) for name, path in loras.items()}
    network = None if adapter is None else TextAdapter.from_pretrained(adapter, local_files_only=True)
    building = out.with_name(f"{out.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    LongAlignParts("official", 240, ()).write(building)
    for name, tensors in named.items():
        write_lora(building, name, tensors)
    if network is not None:
        network.save_pretrained(building / "adapter")
    building.rename(out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.longalign.convert_longsd", description=__doc__)
    parser.add_argument("--unet", type=Path, required=True, help="folder with the U-Net's config.json")
    for name in ("align", "reward", "lcm", "reward-lcm"):
        parser.add_argument(f"--{name}", type=Path, help=f"the {name} LoRA, a .pt file")
    parser.add_argument("--adapter", type=Path, help="folder of the adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("align", "reward", "lcm", "reward_lcm")}
    loras = {name: path for name, path in given.items() if path is not None}
    config = json.loads((options.unet / "config.json").read_text(encoding="utf-8"))
    convert(config, loras, options.adapter, options.out)


if __name__ == "__main__":
    main()
