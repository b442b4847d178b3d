"""CLIP segments as one block of conditioning, with T5 beside them: Stable Diffusion, SDXL and LongAlign."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.longalign.plan import PromptPlan, PromptSettings
from pipelines.longalign.planner import SegmentPlanner, WholePlanner, block_rows
from pipelines.longalign.text_encoders import CachedTextEncoder, EncodedText
from pipelines.longalign.tokens import TokenRun

Plans = tuple[PromptPlan, ...]


@dataclass(frozen=True)
class EncodedPrompts:
    """Conditioning of a batch and how it came about.

    Attributes:
        prompt_embeds, negative_prompt_embeds: `[B, rows, C]`, of one length.
        pooled_prompt_embeds, negative_pooled_prompt_embeds: `[B, P]` where the family has them.
        plans, negative_plans: for each prompt one plan per kind of encoder.
    """

    prompt_embeds: Tensor
    plans: tuple[Plans, ...]
    negative_prompt_embeds: Tensor | None = None
    negative_plans: tuple[Plans, ...] = ()
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None

    def arguments(self) -> dict[str, Tensor]:
        """Keyword arguments of the pipeline's call."""
        names = ["prompt_embeds", "negative_prompt_embeds"]
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Blocks:
    """Conditioning before the branches meet.

    Attributes:
        clip: `[B, rows, C]`. t5: `[B, rows, D]` before the adapter, or None.
        pooled: `[B, P]` of the last encoder, or None.
        plans: for each text one plan per branch.
    """

    clip: Tensor
    t5: Tensor | None
    pooled: Tensor | None
    plans: tuple[Plans, ...]


class SegmentConditioning:
    """CLIP segments, with LongAlign's T5 branch beside them where there is one.

    Args:
        encoders: one CLIP encoder (Stable Diffusion) or two (SDXL, joined on the channel axis).
        t5: encoder of the whole text. adapter: brings its states to CLIP's width.
        zero_negative: an absent negative prompt is all zeros (SDXL's `force_zeros_for_empty_prompt`).

    Source: arXiv 2410.11817. Each segment keeps its start mark and its words; end marks and padding are
    dropped; one padding vector fills the block; CLIP rows come first, then T5 rows, along the sequence axis.
    """

    def __init__(
        self,
        encoders: Sequence[CachedTextEncoder],
        settings: PromptSettings,
        *,
        t5: CachedTextEncoder | None = None,
        adapter: torch.nn.Module | None = None,
        zero_negative: bool = False,
    ) -> None:
        self.encoders, self.settings, self.t5, self.adapter = tuple(encoders), settings, t5, adapter
        self.zero_negative = zero_negative

    def forget(self) -> None:
        """Empty the encoders' memories."""
        for encoder in (*self.encoders, self.t5):
            if encoder is not None:
                encoder.forget()

    def encode_blocks(self, texts: Sequence[str]) -> Blocks:
        """Plan and encode texts; all get blocks of one length."""
        planner = SegmentPlanner([encoder.reader for encoder in self.encoders], self.settings)
        drafts = [planner.draft(text) for text in texts]
        needed = max(planner.needed_rows(draft) for draft in drafts)
        whole, wholes = None, []
        if self.t5 is not None:
            whole = WholePlanner(self.t5.reader, self.settings)
            wholes = [whole.draft(text) for text in texts]
            needed = max(needed, *(whole.needed_rows(draft) for draft in wholes))
        rows = block_rows(needed, self.settings)
        plans = [planner.place(draft, rows) for draft in drafts]
        clip, pooled = self.clip_block(plans)
        if self.t5 is None or whole is None:
            return Blocks(clip, None, pooled, tuple((plan,) for plan in plans))
        others = [whole.place(draft, rows) for draft in wholes]
        return Blocks(clip, self.t5_states(others), pooled, tuple(zip(plans, others, strict=True)))

    def clip_block(self, plans: Sequence[PromptPlan]) -> tuple[Tensor, Tensor | None]:
        """Blocks `[B, rows, C]` and pooled vectors `[B, P]` of plans, in one call of each encoder."""
        blocks, pooled = [], None
        for rank, encoder in enumerate(self.encoders):
            runs = [segment.runs[rank] for plan in plans for segment in plan.segments]
            answers = encoder.encode([encoder.reader.wrap(run) for run in runs])
            padding = encoder.padding()
            found = iter(zip(runs, answers, strict=True))
            rows, vectors = [], []
            for plan in plans:
                parts, own = [], []
                for segment in plan.segments:
                    run, answer = next(found)
                    kept = encoder.reader.kept(run)[: segment.num_rows]
                    parts.append(weigh(encoder, run, answer.hidden)[kept])
                    parts.append(padding.expand(segment.num_rows - len(kept), -1))
                    own.append(answer)
                rows.append(torch.cat([*parts, padding.expand(plan.rows - plan.used, -1)]))
                vectors.append(pool(own, self.settings.pooled))
            blocks.append(torch.stack(rows))
            pooled = None if vectors[0] is None else torch.stack([v for v in vectors if v is not None])
        return torch.cat(blocks, dim=-1), pooled

    def t5_states(self, plans: Sequence[PromptPlan]) -> Tensor:
        """T5 states `[B, rows, D]` of whole texts; padding is attended to, as in the authors' training."""
        assert self.t5 is not None
        rows = plans[0].rows
        runs = [plan.segments[0].runs[0] for plan in plans]
        answers = self.t5.encode([self.t5.reader.wrap(run) for run in runs], rows)
        states = [weigh(self.t5, run, a.hidden, rows) for run, a in zip(runs, answers, strict=True)]
        return torch.stack(states)

    def combine(self, clip: Tensor, t5: Tensor | None) -> Tensor:
        """`[B, rows, C]`, or `[B, 2 * rows, C]` with the T5 branch behind it."""
        if t5 is None:
            return clip
        assert self.adapter is not None
        dtype = next(self.adapter.parameters()).dtype
        return torch.cat([clip, self.adapter(t5.to(dtype)).to(clip.dtype)], dim=1)

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], negatives: Sequence[str] | None, guided: bool
    ) -> EncodedPrompts:
        count = len(prompts)
        zeros = guided and negatives is None and self.zero_negative
        texts = list(prompts)
        if guided and not zeros:
            texts += [""] * count if negatives is None else list(negatives)
        blocks = self.encode_blocks(texts)
        embeds, pooled, plans = self.combine(blocks.clip, blocks.t5), blocks.pooled, blocks.plans
        if zeros:
            embeds = torch.cat([embeds, torch.zeros_like(embeds)])
            pooled = None if pooled is None else torch.cat([pooled, torch.zeros_like(pooled)])
        if len(self.encoders) == 1:
            pooled = None  # Stable Diffusion has no use for it
        has_negative = len(embeds) > count
        return EncodedPrompts(
            prompt_embeds=embeds[:count],
            plans=plans[:count],
            negative_prompt_embeds=embeds[count:] if has_negative else None,
            negative_plans=plans[count:],
            pooled_prompt_embeds=None if pooled is None else pooled[:count],
            negative_pooled_prompt_embeds=pooled[count:] if pooled is not None and has_negative else None,
        )


def weigh(encoder: CachedTextEncoder, run: TokenRun, states: Tensor, width: int | None = None) -> Tensor:
    """Move the states of weighted tokens away from (or towards) those of the empty text.

    z0 + w (z - z0) for every token of weight w != 1, where z0 is the empty text's state at the same position;
    everything else, start marks and padding included, stays bit by bit.
    """
    if all(weight == 1.0 for weight in run.weights):
        return states
    blank = encoder.blank(width)
    first = len(encoder.reader.prefix)
    places = [place for place, weight in enumerate(run.weights) if weight != 1.0]
    rows = torch.tensor(places, device=states.device) + first
    weights = torch.tensor([run.weights[place] for place in places], device=states.device)
    origin = blank[rows].float()
    moved = origin + weights[:, None] * (states[rows].float() - origin)
    return states.index_copy(0, rows, moved.to(states.dtype))


def pool(answers: Sequence[EncodedText], how: str) -> Tensor | None:
    """The mean of the pooled vectors `[P]`, or the first; None where the encoder has none."""
    vectors = [answer.pooled for answer in answers if answer.pooled is not None]
    if not vectors:
        return None
    return vectors[0] if how == "first" or len(vectors) == 1 else torch.stack(vectors).mean(0)
