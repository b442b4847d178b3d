"""A CLIP model as judge of taste and alignment: captions by segments, pictures with their gradient kept."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.planner import SegmentPlanner
from pipelines.longalign.preference import caption_embeddings, common_direction
from pipelines.longalign.tokens import TokenReader

REFERENCE_FILE = "reference.safetensors"
LEAST_CAPTIONS = 1000  # below that the common direction leans towards single captions


@dataclass(frozen=True)
class PictureInput:
    """What a CLIP vision tower expects.

    Attributes:
        mean, std: of each colour channel, for pictures in [0, 1].
        crop: side in pixels of a random crop taken first; smaller pictures are left whole. None: no crop.
    """

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    crop: int | None = 504


STORYBOOK_INPUT = PictureInput((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop=126)


class PreferenceModel:
    """Embeds captions and pictures for `preference.preference_logits`.

    Args:
        model: `CLIPModel`, frozen here.
        tokenizer: its tokenizer.
        picture_input: statistics and crop; the size is the vision tower's own.
    """

    def __init__(self, model: Any, tokenizer: Any, picture_input: PictureInput | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.picture_input = picture_input or PictureInput()
        window = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
        self.reader = TokenReader(tokenizer, window)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, picture_input: PictureInput | None = None
    ) -> "PreferenceModel":
        """Load `CLIPModel` and tokenizer; statistics come from `preprocessor_config.json` if it is there."""
        from transformers import AutoTokenizer, CLIPModel

        written = Path(folder) / "preprocessor_config.json"
        if picture_input is None and written.exists():
            config = json.loads(written.read_text(encoding="utf-8"))
            picture_input = PictureInput(tuple(config["image_mean"]), tuple(config["image_std"]))
        return cls(CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), picture_input)

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "PreferenceModel":
        self.model.to(device=device, dtype=dtype)
        return self

    def segments(self, captions: Sequence[str], mode: str = "smart") -> tuple[list[tuple[int, ...]], Tensor]:
        """Ids of all segments with their marks, and the caption `[S]` of each."""
        planner = SegmentPlanner([self.reader], PromptSettings(mode=mode))
        drafts = [planner.draft(caption) for caption in captions]
        ids = [self.reader.wrap(segment.runs[0]) for draft in drafts for segment in draft.segments]
        index = [row for row, draft in enumerate(drafts) for _ in draft.segments]
        return ids, torch.tensor(index)

    @torch.no_grad()
    def embed_ids(self, ids: Sequence[tuple[int, ...]]) -> Tensor:
        """Text embeddings `[S, E]` float32, padded to the window with a mask, as the authors feed them.

        Texts that occur several times are embedded once.
        """
        order = {own: place for place, own in enumerate(dict.fromkeys(ids))}
        rows = torch.full((len(order), self.reader.window), self.reader.pad_id)
        mask = torch.zeros_like(rows)
        for own, row in order.items():
            rows[row, : len(own)] = torch.tensor(own)
            mask[row, : len(own)] = 1
        output = self.model.get_text_features(
            input_ids=rows.to(self.device), attention_mask=mask.to(self.device)
        )
        return _vectors(output).float()[[order[own] for own in ids]]

    def embed_captions(self, captions: Sequence[str], mode: str = "smart") -> Tensor:
        """Caption embeddings `[B, E]`: means over segments, see `preference.caption_embeddings`."""
        ids, index = self.segments(captions, mode)
        return caption_embeddings(self.embed_ids(ids), index.to(self.device), len(captions))

    def prepare(
        self, pictures: Tensor, generator: torch.Generator | None = None, crop: bool = True
    ) -> Tensor:
        """Pictures `[B, 3, H, W]` in [0, 1] -> the vision tower's input.

        With `crop` one random crop is taken for the whole batch, as in training.
        """
        side, size = self.picture_input.crop, self.model.config.vision_config.image_size
        if crop and side is not None:
            rooms = [max(length - side, 0) for length in pictures.shape[-2:]]
            top, left = (int(torch.randint(room + 1, (1,), generator=generator)) for room in rooms)
            pictures = pictures[..., top : top + side, left : left + side]
        pictures = F.interpolate(pictures, (size, size), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (
            torch.tensor(values, device=pictures.device, dtype=pictures.dtype).view(3, 1, 1)
            for values in (self.picture_input.mean, self.picture_input.std)
        )
        return (pictures - mean) / std

    def embed_pictures(
        self, pictures: Tensor, generator: torch.Generator | None = None, crop: bool = True
    ) -> Tensor:
        """Picture embeddings `[B, E]` float32 of pictures `[B, 3, H, W]` in [0, 1]; differentiable."""
        pixels = self.prepare(pictures.to(self.device), generator, crop).to(self.model.logit_scale.dtype)
        return _vectors(self.model.get_image_features(pixel_values=pixels)).float()


def _vectors(output: Any) -> Tensor:
    """transformers 4 returned the tensor, 5 an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output


@dataclass(frozen=True)
class Reference:
    """What scores are held against.

    Attributes:
        direction: V `[E]`, the common direction of many captions.
        mean_picture: `[E]`, the mean unit embedding of many pictures, or None. What a picture scores above it
            for a sentence is due to the picture, not to how the sentence is worded.
    """

    direction: Tensor
    mean_picture: Tensor | None = None

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        tensors = {"direction": self.direction, "mean_picture": self.mean_picture}
        part = path.with_suffix(".part")
        save_file({name: value.cpu() for name, value in tensors.items() if value is not None}, part)
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        from safetensors.torch import load_file

        tensors = load_file(path)
        return cls(tensors["direction"], tensors.get("mean_picture"))


@torch.no_grad()
def measure_reference(
    model: PreferenceModel, captions: Sequence[str], pictures: Tensor | None = None, batch: int = 64
) -> Reference:
    """The reference of a model over captions and, where given, pictures `[P, 3, H, W]` in [0, 1].

    Raises:
        ValueError: fewer than 1,000 captions.
    """
    if len(captions) < LEAST_CAPTIONS:
        raise ValueError(
            f"the common direction needs at least {LEAST_CAPTIONS} captions, got {len(captions)}"
        )
    parts = [model.embed_captions(captions[i : i + batch]) for i in range(0, len(captions), batch)]
    direction = common_direction(torch.cat(parts))
    if pictures is None:
        return Reference(direction)
    embeds = torch.cat([model.embed_pictures(part, crop=False) for part in pictures.split(batch)])
    return Reference(direction, F.normalize(embeds, dim=-1).mean(0))
