"""Which sentence of a page does a picture show, and which does it miss?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.planner import SegmentPlanner
from pipelines.longalign.preference import caption_embeddings, decompose
from pipelines.longalign.preference_model import PreferenceModel, Reference


@dataclass(frozen=True)
class SegmentScore:
    """How well a picture fits one segment of its prompt.

    Attributes:
        text: the segment. start, end: its range in the prompt.
        relevant: the text-relevant score: what the sentence itself says.
        irrelevant: the score along the common direction: the same wish for every sentence.
        above_average: how far the relevant score lies above that of a mean picture; below 0 the picture
            shows the sentence less than pictures usually do. None without a reference picture.
    """

    text: str
    start: int
    end: int
    relevant: float
    irrelevant: float
    above_average: float | None

    @property
    def score(self) -> float:
        """The plain preference score."""
        return self.relevant + self.irrelevant


@torch.no_grad()
def score_segments(
    model: PreferenceModel, picture: Image.Image | Tensor, prompt: str, reference: Reference
) -> list[SegmentScore]:
    """Scores of a picture, PIL or `[3, H, W]` in [0, 1], for each segment of its prompt, in order.

    Source: arXiv 2410.11817 (scores by segment); the common direction is a stored one, since a single
    prompt's own direction would explain everything.
    """
    pixels = picture_tensor(picture)[None] if isinstance(picture, Image.Image) else picture[None]
    seen = F.normalize(model.embed_pictures(pixels, crop=False), dim=-1)[0]
    draft = SegmentPlanner([model.reader], PromptSettings()).draft(prompt)
    ids = [model.reader.wrap(segment.runs[0]) for segment in draft.segments]
    texts = caption_embeddings(model.embed_ids(ids), torch.arange(len(ids), device=model.device), len(ids))
    parts = decompose(texts, reference.direction.to(texts))
    relevant = parts.perpendicular @ seen
    irrelevant = parts.eta * (parts.direction @ seen)
    above: Sequence[float | None] = [None] * len(ids)
    if reference.mean_picture is not None:
        above = (relevant - parts.perpendicular @ reference.mean_picture.to(texts)).tolist()
    numbers = zip(draft.segments, relevant.tolist(), irrelevant.tolist(), above, strict=True)
    return [SegmentScore(part.text, part.start, part.end, *values) for part, *values in numbers]


def picture_tensor(picture: Image.Image) -> Tensor:
    """`[3, H, W]` float32 in [0, 1]."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
