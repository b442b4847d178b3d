"""Masks of mined pairs, for the attention losses of the UNet recipe.

`masks/<stem>/mask_<stem>_<category>.<seq>.png`, 8-bit, 0 or 255. Any segmenter that takes boxes will do; SAM
2 through transformers is built in, for a model folder that lies on disk.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.compass.scop import METADATA

# (picture, boxes [K, 4] as left, top, right, bottom) -> masks [K, H, W], bool
Segment = Callable[[Image.Image, Sequence[Sequence[float]]], NDArray[np.bool_]]


def mask_path(record: dict[str, Any], name: str) -> Path:
    """Where the mask of one object of a pair lies, relative to the data set."""
    stem = Path(record["file_name"]).stem
    return Path("masks") / stem / f"mask_{stem}_{name}.{record['seq']}.png"


def pair_names(record: dict[str, Any]) -> tuple[str, str]:
    """Categories of the two annotations; the first triple reads from the first to the second."""
    subject, _, other = record["oros"][0]
    return subject, other


def read_pairs(folder: Path) -> Iterator[dict[str, Any]]:
    """Lines of a data set.

    Raises:
        ValueError: the folder holds none.
    """
    try:
        lines = (folder / METADATA).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{folder} holds no {METADATA} ({error})") from None
    yield from (json.loads(line) for line in lines if line)


def write_masks(folder: Path, segment: Segment, on_done: Callable[[int], None] | None = None) -> int:
    """Write the masks that are missing; returns how many.

    Raises:
        ValueError: no data set, or a segmenter that gives masks of another size.
    """
    written = 0
    for record in read_pairs(folder):
        names = pair_names(record)
        missing = [
            (name, annotation["bbox"])
            for name, annotation in zip(names, record["annots"], strict=True)
            if not (folder / mask_path(record, name)).exists()
        ]
        if not missing or record.get("mirrored"):  # a mirrored line shares the masks of its original
            continue
        with Image.open(folder / record["file_name"]) as opened:
            picture = opened.convert("RGB")
        masks = segment(picture, [(x, y, x + w, y + h) for _, (x, y, w, h) in missing])
        if masks.shape != (len(missing), picture.height, picture.width):
            wanted = (len(missing), picture.height, picture.width)
            raise ValueError(f"the segmenter gave masks {masks.shape}; expected {wanted}")
        for (name, _), mask in zip(missing, masks, strict=True):
            target = folder / mask_path(record, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_suffix(".part")
            Image.fromarray(mask.astype(np.uint8) * 255).save(part, "PNG")
            os.replace(part, target)
            written += 1
        if on_done is not None:
            on_done(written)
    return written


class Sam2Segmenter:
    """SAM 2 asked with boxes; of its proposals the one it is surest of.

    Args:
        folder: model folder of transformers' `Sam2Model`; nothing is downloaded.
        device: where it runs.
    """

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        from transformers import Sam2Model, Sam2Processor

        self.processor = Sam2Processor.from_pretrained(folder, local_files_only=True)
        self.model = Sam2Model.from_pretrained(folder, local_files_only=True).to(device).eval()
        self.device = device

    def __call__(self, picture: Image.Image, boxes: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
        import torch

        asked = [[list(map(float, box)) for box in boxes]]
        inputs = self.processor(images=picture, input_boxes=asked, return_tensors="pt").to(self.device)
        with torch.no_grad():
            output = self.model(**inputs, multimask_output=True)
        masks = self.processor.post_process_masks(output.pred_masks.cpu(), inputs["original_sizes"])[0]
        surest = output.iou_scores[0].argmax(-1).cpu()  # [K]
        return masks[torch.arange(len(boxes)), surest].bool().numpy()
