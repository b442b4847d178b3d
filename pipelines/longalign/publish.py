"""A run's averaged weights into a LongAlign folder:

python -m pipelines.longalign.publish align --state DIR --folder storybook-sd/longalign --t5 storybook-flux
"""

import argparse
import os
import shutil
from pathlib import Path

import torch

from pipelines.longalign.parts import INDEX, LongAlignParts, write_lora
from pipelines.longalign.preference_model import REFERENCE_FILE
from pipelines.longalign.train_parts import published_lora
from pipelines.storybook.publish import averaged, copy_parts

STAGES = {"align": "align", "lcm": "lcm", "reward": "reward", "reward-on-lcm": "reward_lcm"}
ROWS = 240


def publish(stage: str, state: Path, folder: Path, t5: Path | None = None) -> None:
    """Write the stage's LoRA; with `align` also the adapter and a copy of T5, with rewards the reference."""
    tensors = {name: value.float() for name, value in averaged(state).items()}
    if not (folder / INDEX).exists():
        LongAlignParts("smart", ROWS, ()).write(folder)
    write_lora(folder, STAGES[stage], published_lora(tensors, STAGES[stage]))
    adapter = {k.removeprefix("adapter."): v for k, v in tensors.items() if k.startswith("adapter.")}
    if adapter:
        if t5 is None:
            raise ValueError("this run trained an adapter: --t5 must name the folder of its T5")
        _publish_adapter(adapter, folder)
        copy_parts(t5, folder, ("text_encoder_2", "tokenizer_2"))
    if (state / REFERENCE_FILE).exists():
        part = folder / f"{REFERENCE_FILE}.part"
        shutil.copyfile(state / REFERENCE_FILE, part)
        os.replace(part, folder / REFERENCE_FILE)


def _publish_adapter(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    from pipelines.longalign.text_adapter import TextAdapter

    first, last = tensors["ff1.net.2.weight"], tensors["ff2.net.2.weight"]
    adapter = TextAdapter(len(tensors["norm1.weight"]), len(first), len(last))
    adapter.load_state_dict(tensors)
    adapter.half().save_pretrained(folder / "adapter")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.longalign.publish", description=__doc__)
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="LongAlign folder to write into")
    parser.add_argument("--t5", type=Path, help="align: folder of the T5 that the adapter belongs to")
    options = parser.parse_args(arguments)
    publish(options.stage, options.state, options.folder, options.t5)


if __name__ == "__main__":
    main()
