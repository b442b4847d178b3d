"""Prompts of any length for any diffusers pipeline that is conditioned by CLIP or T5.

Stable Diffusion 1.x and 2.x, SDXL and FLUX.1 take the result through their ordinary arguments:

    encode = LongPromptEncoder.from_pipeline(pipe)
    image = pipe(**encode("a page of text ...").arguments()).images[0]
"""

from collections.abc import Sequence
from typing import Any

from pipelines.longalign.flux_conditioning import FluxConditioning
from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.segment_conditioning import EncodedPrompts, SegmentConditioning
from pipelines.longalign.text_encoders import CachedTextEncoder
from pipelines.longalign.tokens import TokenReader


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
        t5_row_step: int | None = None,
    ) -> "LongPromptEncoder":
        """Build it from the parts of a pipeline, which stays as it is.

        Args:
            pipe: a diffusers pipeline with CLIP text encoders (Stable Diffusion, SDXL), with CLIP and T5
                (FLUX.1), or with CLIP, T5 and an adapter (LongAlign).
            settings: see `PromptSettings`.
            clip_skip: CLIP layers left out at the end, counted as the pipeline's own `clip_skip`.
            t5_window: FLUX: tokens that T5 reads at once (512; 256 for schnell).
            t5_row_step: FLUX: see `FluxConditioning`.
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
            options |= {"device": lambda: pipe._execution_device, "alone": settings.alone}
            return CachedTextEncoder(model, reader, **options)

        if kinds[1] == "T5EncoderModel" and parts.get("transformer") is not None:
            return cls(FluxConditioning(cached(0), cached(1, t5_window), settings, t5_row_step))
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
