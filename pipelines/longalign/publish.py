"""A run's averaged weights into a LongAlign folder, or a stretched text encoder into a folder of its own:

python -m pipelines.longalign.publish align --state DIR --folder storybook-sd/longalign --t5 storybook-flux
python -m pipelines.longalign.publish long-clip --state DIR --folder storybook-long-clip --clip storybook-clip
"""

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from pipelines.longalign.parts import INDEX, T5_PARTS, LongAlignParts, t5_beside, write_lora
from pipelines.longalign.preference_model import REFERENCE_FILE
from pipelines.longalign.train_parts import published_lora
from pipelines.storybook.publish import averaged, copy_parts

LONG_CLIP = "long-clip"
STAGES = {"align": "align", "lcm": "lcm", "reward": "reward", "reward-on-lcm": "reward_lcm"}
ROWS = 240


def publish(stage: str, state: Path, folder: Path, t5: Path | None = None) -> None:
    """Write the stage's LoRA; with `align` also the adapter and T5, with rewards the reference.

    T5 is copied, unless its folder lies beside the model's: then the index names it.
    """
    tensors = {name: value.float() for name, value in averaged(state).items()}
    if not (folder / INDEX).exists():
        LongAlignParts("smart", ROWS, ()).write(folder)
    write_lora(folder, STAGES[stage], published_lora(tensors, STAGES[stage]))
    adapter = {k.removeprefix("adapter."): v for k, v in tensors.items() if k.startswith("adapter.")}
    if adapter:
        if t5 is None:
            raise ValueError("this run trained an adapter: --t5 must name the folder of its T5")
        _publish_adapter(adapter, folder)
        lent = t5_beside(t5, folder)
        replace(LongAlignParts.read(folder), t5=lent).write(folder)
        if lent is None:
            copy_parts(t5, folder, T5_PARTS)
    if (state / REFERENCE_FILE).exists():
        part = folder / f"{REFERENCE_FILE}.part"
        shutil.copyfile(state / REFERENCE_FILE, part)
        os.replace(part, folder / REFERENCE_FILE)


def publish_long_clip(state: Path, folder: Path, clip: Path) -> None:
    """Write `text_encoder` and `tokenizer` of 248 tokens, as Stable Diffusion takes them.

    Args:
        clip: the `CLIPModel` that the run stretched.
    """
    from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

    from pipelines.longalign.long_clip import stretch_tokenizer
    from pipelines.longalign.train_long_clip import stretch_clip
    from pipelines.storybook.text import save_text_parts

    model = CLIPModel.from_pretrained(clip)
    if model.config.text_config.max_position_embeddings < 100:
        model = stretch_clip(model)
    model.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    text = CLIPTextModel(model.config.text_config)
    # transformers 4 keeps the tower inside `text_model`, 5 is the tower itself
    getattr(text, "text_model", text).load_state_dict(model.text_model.state_dict())
    length = model.config.text_config.max_position_embeddings
    tokenizer = stretch_tokenizer(AutoTokenizer.from_pretrained(clip), length)
    save_text_parts(folder, text, tokenizer, "text_encoder", "tokenizer")


def _publish_adapter(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    from pipelines.longalign.text_adapter import TextAdapter

    first, last = tensors["ff1.net.2.weight"], tensors["ff2.net.2.weight"]
    adapter = TextAdapter(len(tensors["norm1.weight"]), len(first), len(last))
    adapter.load_state_dict(tensors)
    adapter.half().save_pretrained(folder / "adapter")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.longalign.publish", description=__doc__)
    parser.add_argument("stage", choices=sorted((*STAGES, LONG_CLIP)))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write into")
    parser.add_argument("--t5", type=Path, help="align: folder of the T5 that the adapter belongs to")
    parser.add_argument("--clip", type=Path, help="long-clip: folder of the CLIP model that was stretched")
    options = parser.parse_args(arguments)
    if options.stage == LONG_CLIP:
        if options.clip is None:
            parser.error("long-clip needs --clip")
        publish_long_clip(options.state, options.folder, options.clip)
        return
    publish(options.stage, options.state, options.folder, options.t5)


if __name__ == "__main__":
    main()
