"""Prompts of any length for any diffusers pipeline that is conditioned by CLIP or T5.

Stable Diffusion 1.x and 2.x, SDXL and FLUX.1 take the result through their ordinary arguments:

    encode = LongPromptEncoder.from_pipeline(pipe)
    image = pipe(**encode("a page of text ...").arguments()).images[0]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipelines.longalign.plan import PromptPlan, PromptSettings
from pipelines.longalign.planner import SegmentPlanner, WholePlanner, block_rows
from pipelines.longalign.text_encoders import CachedTextEncoder, EncodedText
from pipelines.longalign.tokens import TokenReader, TokenRun

Tensor = torch.Tensor
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
        names = ("prompt_embeds", "negative_prompt_embeds")
        names += ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
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
    def __call__(self, prompts: Sequence[str], negatives: Sequence[str] | None, guided: bool) -> EncodedPrompts:
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


class FluxConditioning:
    """FLUX.1: T5 in one pass up to its window, in blocks beyond it; pooled CLIP over segments beyond 77.

    A prompt that fits and has no weights is encoded exactly as the stock pipeline does. FLUX gives all text tokens the same
    position, so blocks of whole sentences can follow each other; each but the last loses its end mark.

    Args:
        clip, t5: the two encoders; the windows of their readers count (T5: 512, or 256 for schnell).
    """

    def __init__(
        self, clip: CachedTextEncoder, t5: CachedTextEncoder, settings: PromptSettings
    ) -> None:
        self.clip, self.t5 = clip, t5
        self.settings = replace(
            settings, mode="smart", rows=t5.reader.window, max_rows=max(settings.max_rows, t5.reader.window)
        )

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], negatives: Sequence[str] | None, guided: bool) -> EncodedPrompts:
        count, negatives = len(prompts), negatives if guided else None
        texts = [*prompts, *(negatives or ())]
        planner = WholePlanner(self.t5.reader, self.settings)
        room = self.t5.reader.room if self.settings.overflow == "grow" else None
        drafts = [planner.draft(text, room) for text in texts]
        rows = block_rows(max(map(planner.needed_rows, drafts)), self.settings)
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

    def _states(self, plans: Sequence[PromptPlan], rows: int) -> Tensor:
        reader, window = self.t5.reader, self.t5.reader.window
        single = [plan for plan in plans if len(plan.segments) == 1]
        runs = [plan.segments[0].runs[0] for plan in single]
        answers = iter(self.t5.encode([reader.wrap(run) for run in runs], window) if runs else ())
        divided = [segment.runs[0] for plan in plans if len(plan.segments) > 1 for segment in plan.segments]
        blocks = iter(self.t5.encode([reader.wrap(run) for run in divided], masked=True) if divided else ())
        padding = self.t5.padding() if rows > window else None
        out = []
        for plan in plans:
            if len(plan.segments) == 1:
                parts = [weigh(self.t5, plan.segments[0].runs[0], next(answers).hidden)]
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


class LongPromptEncoder:
    """The door: prompts in, arguments of the pipeline and plans out. See the head of this file."""

    def __init__(self, conditioning: SegmentConditioning | FluxConditioning) -> None:
        self.conditioning = conditioning

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,
        settings: PromptSettings | None = None,
        *,
        clip_skip: int = 0,
        t5_window: int = 512,
    ) -> "LongPromptEncoder":
        """Build it from the parts of a pipeline, which stays as it is.

        Args:
            pipe: a diffusers pipeline with CLIP text encoders (Stable Diffusion, SDXL), with CLIP and T5
                (FLUX.1), or with CLIP, T5 and an adapter (LongAlign).
            settings: see `PromptSettings`.
            clip_skip: CLIP layers left out at the end, counted as the pipeline's own `clip_skip`.
            t5_window: FLUX: tokens that T5 reads at once (512; 256 for schnell).
        Raises:
            ValueError: the pipeline's encoders are of other kinds.
        """
        settings = settings or PromptSettings()
        parts = pipe.components
        encoders = [(parts.get(f"text_encoder{n}"), parts.get(f"tokenizer{n}")) for n in ("", "_2")]
        kinds = [type(model).__name__ if model is not None else "" for model, _ in encoders]

        def cached(rank: int, window: int | None = None, **options: Any) -> CachedTextEncoder:
            model, tokenizer = encoders[rank]
            reader = TokenReader(tokenizer, window or clip_window(model, tokenizer))
            return CachedTextEncoder(model, reader, device=lambda: pipe._execution_device, **options)

        if kinds[1] == "T5EncoderModel" and parts.get("transformer") is not None:
            return cls(FluxConditioning(cached(0), cached(1, t5_window), settings))
        if kinds[1] == "CLIPTextModelWithProjection":
            present = [rank for rank in (0, 1) if kinds[rank]]
            both = [cached(rank, skip=clip_skip + 1, normed=False) for rank in present]
            zeros = bool(pipe.config.get("force_zeros_for_empty_prompt", False))
            return cls(SegmentConditioning(both, settings, zero_negative=zeros))
        if kinds[0].startswith("CLIPTextModel") and kinds[1] in ("", "T5EncoderModel"):
            adapter = parts.get("adapter")
            # T5 has no limit of its own; blocks are as long as the plan says
            t5 = cached(1, settings.max_rows) if kinds[1] and adapter is not None else None
            return cls(SegmentConditioning([cached(0, skip=clip_skip)], settings, t5=t5, adapter=adapter))
        raise ValueError(f"text encoders {kinds} are neither those of Stable Diffusion, SDXL nor FLUX.1")

    @property
    def settings(self) -> PromptSettings:
        return self.conditioning.settings

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        guided: bool = True,
    ) -> EncodedPrompts:
        """Encode prompts and their negative prompts, all new segments in one call of each encoder.

        Args:
            prompt: one text, or a list with one per picture.
            negative_prompt: of any length; one for all prompts, or a list. Default: the empty text (SDXL:
                zeros where its config says so; FLUX: none).
            guided: whether classifier-free guidance needs negative rows (FLUX: only when one is given).
        Raises:
            ValueError: no text, something else than text, or lists of different lengths.
        """
        prompts = _texts("prompt", prompt)
        negatives = None if negative_prompt is None else _texts("negative_prompt", negative_prompt)
        if negatives is not None and isinstance(negative_prompt, str):
            negatives = negatives * len(prompts)
        if negatives is not None and len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negative prompts were given for {len(prompts)} prompts")
        return self.conditioning(prompts, negatives, guided)


def clip_window(model: Any, tokenizer: Any) -> int:
    """Tokens that a CLIP text encoder reads at once: 77, or 248 for Long-CLIP."""
    return min(tokenizer.model_max_length, model.config.max_position_embeddings)


def _texts(name: str, given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a string or a list of strings, got {given!r:.80}")
    return texts
