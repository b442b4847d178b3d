"""A Long-CLIP checkpoint, or any CLIP text tower, into a 248-token text encoder folder, offline:

    python -m pipelines.longalign.convert_long_clip --checkpoint longclip-L.pt --tokenizer TOKENIZER --out DIR
    python -m pipelines.longalign.convert_long_clip --folder SD15 --out DIR        (stretched, not trained)

The result has the subfolders `text_encoder` and `tokenizer` of a Stable Diffusion model.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from pipelines.longalign.long_clip import (
    convert_long_clip,
    long_clip_config,
    stretch_text_encoder,
    stretch_tokenizer,
)


def text_encoder_of_checkpoint(path: Path) -> Any:
    """`CLIPTextModelWithProjection` from a published `.pt` file (read as plain tensors)."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "positional_embedding_res" not in state:
        raise ValueError(f"{path} is no Long-CLIP checkpoint: it has no positional_embedding_res")
    tensors = {name: value.float() for name, value in state.items() if isinstance(value, torch.Tensor)}
    model = CLIPTextModelWithProjection(CLIPTextConfig(**long_clip_config(tensors))).eval()
    converted = convert_long_clip(tensors)
    missing, unexpected = model.load_state_dict(converted, strict=False)
    if missing or unexpected:
        raise ValueError(f"{path} doesn't fit: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return model


def save(model: Any, tokenizer: Any, pad_id: int | None, out: Path) -> None:
    """Write both subfolders, all or nothing."""
    if out.exists():
        raise ValueError(f"{out} exists already")
    length = model.config.max_position_embeddings
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part / "text_encoder")
    stretch_tokenizer(tokenizer, length, pad_id).save_pretrained(part / "tokenizer")
    part.rename(out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.longalign.convert_long_clip", description=__doc__
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="longclip-B.pt or longclip-L.pt")
    source.add_argument("--folder", type=Path, help="model folder whose text encoder is stretched")
    parser.add_argument("--tokenizer", type=Path, help="CLIP tokenizer folder (default: that of --folder)")
    parser.add_argument(
        "--pad-id", type=int, help="padding token (default: as the tokenizer has it; authors: 0)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    options = parser.parse_args(arguments)
    from transformers import CLIPTextModel, CLIPTokenizer

    if options.folder is None and options.tokenizer is None:
        parser.error("--checkpoint needs --tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(options.tokenizer or options.folder / "tokenizer")
    if options.checkpoint is not None:
        model = text_encoder_of_checkpoint(options.checkpoint)
    else:
        model = stretch_text_encoder(CLIPTextModel.from_pretrained(options.folder / "text_encoder"))
    save(model, tokenizer, options.pad_id, options.out)


if __name__ == "__main__":
    main()
