"""Conditioning of FLUX.1 beyond the 512 tokens that T5 reads at once and the 77 of CLIP."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipelines.longalign.plan import PromptPlan, PromptSettings
from pipelines.longalign.planner import SegmentPlanner, WholePlanner, block_rows
from pipelines.longalign.segment_conditioning import EncodedPrompts, pool, weigh
from pipelines.longalign.text_encoders import CachedTextEncoder
from pipelines.longalign.tokens import TokenRun


class FluxConditioning:
    """FLUX.1: T5 in one pass up to its window, in blocks beyond it; pooled CLIP over segments beyond 77.

    A prompt that fits and has no weights is encoded exactly as the stock pipeline does. FLUX gives all text
    tokens the same position, so blocks of whole sentences can follow each other; each but the last loses its
    end mark.

    Args:
        clip, t5: the two encoders; the windows of their readers count (T5: 512, or 256 for schnell).
        row_step: texts that fit get as many rows as they need, rounded up to a multiple of this. Default: the
            whole window, as stock FLUX.1.
    """

    def __init__(
        self,
        clip: CachedTextEncoder,
        t5: CachedTextEncoder,
        settings: PromptSettings,
        row_step: int | None = None,
    ) -> None:
        self.clip, self.t5, self.row_step = clip, t5, row_step
        self.settings = replace(
            settings, mode="smart", rows=t5.reader.window, max_rows=max(settings.max_rows, t5.reader.window)
        )

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], negatives: Sequence[str] | None, guided: bool
    ) -> EncodedPrompts:
        count, negatives = len(prompts), negatives if guided else None
        texts = [*prompts, *(negatives or ())]
        planner = WholePlanner(self.t5.reader, self.settings)
        room = self.t5.reader.room if self.settings.overflow == "grow" else None
        drafts = [planner.draft(text, room) for text in texts]
        rows = self._rows(max(map(planner.needed_rows, drafts)))
        plans = [planner.place(draft, rows) for draft in drafts]
        embeds, pooled = self._states(plans, rows), self._pooled(texts)
        kept = tuple((plan,) for plan in plans)
        has_negative = negatives is not None
        return EncodedPrompts(
            prompt_embeds=embeds[:count],
            plans=kept[:count],
            negative_prompt_embeds=embeds[count:] if has_negative else None,
            negative_plans=kept[count:],
            pooled_prompt_embeds=pooled[:count],
            negative_pooled_prompt_embeds=pooled[count:] if has_negative else None,
        )

    def _rows(self, needed: int) -> int:
        window = self.t5.reader.window
        if self.row_step is not None and needed <= window:
            return min(math.ceil(needed / self.row_step) * self.row_step, window)
        return block_rows(needed, self.settings)

    def _states(self, plans: Sequence[PromptPlan], rows: int) -> Tensor:
        reader, window = self.t5.reader, min(rows, self.t5.reader.window)
        single = [plan for plan in plans if len(plan.segments) == 1]
        runs = [plan.segments[0].runs[0] for plan in single]
        answers = iter(self.t5.encode([reader.wrap(run) for run in runs], window) if runs else ())
        divided = [segment.runs[0] for plan in plans if len(plan.segments) > 1 for segment in plan.segments]
        blocks = iter(self.t5.encode([reader.wrap(run) for run in divided], masked=True) if divided else ())
        padding = self.t5.padding() if rows > window else None
        out = []
        for plan in plans:
            if len(plan.segments) == 1:
                parts = [weigh(self.t5, plan.segments[0].runs[0], next(answers).hidden, window)]
            else:
                parts = []
                for segment in plan.segments:
                    states = weigh(self.t5, segment.runs[0], next(blocks).hidden)
                    is_last = segment is plan.segments[-1]
                    parts.append(states if is_last else states[: segment.num_rows])
            missing = rows - sum(map(len, parts))
            if padding is not None:
                parts.append(padding.expand(missing, -1))
            out.append(torch.cat(parts))
        return torch.stack(out)

    def _pooled(self, texts: Sequence[str]) -> Tensor:
        """Of the whole text where it fits CLIP's window, else over its segments."""
        planner = SegmentPlanner([self.clip.reader], self.settings)
        whole = WholePlanner(self.clip.reader, self.settings)
        runs: list[list[TokenRun]] = []
        for text in texts:
            run = whole.draft(text).segments[0].runs[0]
            fits = len(run) <= self.clip.reader.room
            runs.append([run] if fits else [segment.runs[0] for segment in planner.draft(text).segments])
        window = self.clip.reader.window
        flat = self.clip.encode([self.clip.reader.wrap(run) for own in runs for run in own], window)
        answers = iter(flat)
        vectors = [pool([next(answers) for _ in own], self.settings.pooled) for own in runs]
        return torch.stack([vector for vector in vectors if vector is not None])
