"""Stable Diffusion that reads a page: sentences encoded one by one, T5 beside them, aligned weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    T5EncoderModel,
    T5TokenizerFast,
)

from pipelines.longalign.conditioning import LongPromptEncoder
from pipelines.longalign.lora import merge_lora
from pipelines.longalign.parts import FULL_PICTURE, LongAlignParts, read_lora, t5_folder
from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.scheduling_longalign import LongAlignLCMScheduler
from pipelines.longalign.segment_conditioning import EncodedPrompts, Plans, SegmentConditioning
from pipelines.longalign.text_adapter import TextAdapter


class LongAlignPipeline(StableDiffusionPipeline):
    """LongAlign over Stable Diffusion 1.x components (folders of `StableDiffusionPipeline` load too).

    Everything but the text is diffusers' own pipeline: arguments, callbacks, outputs, memory switches.
    Without T5 and adapter it works with any Stable Diffusion weights, untrained for it; `note` says which of
    the two it is. `load_longalign` adds what a LongAlign folder holds.

    Args:
        text_encoder_2, tokenizer_2, adapter: the T5 branch; all three or none.
        token_length: rows of a block. Default: 240.
        segment_mode: "official" for the published weights, else "smart".
        overflow: what happens beyond `token_length` rows. Default: "truncate" in official mode, as the
            authors do, else "grow".
        max_rows: where "grow" ends. prompt_weights: whether `(word:1.3)` and `BREAK` are syntax (default:
            in smart mode). See `plan.PromptSettings`; `prompt_settings` holds these five as one.

    Attributes:
        plans, negative_plans: of the last call, for each prompt one plan per encoder.

    Source: arXiv 2410.11817.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->adapter->image_encoder->unet->vae"
    _optional_components = [
        *StableDiffusionPipeline._optional_components, "text_encoder_2", "tokenizer_2", "adapter",
    ]  # fmt: skip

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        text_encoder_2: T5EncoderModel | None = None,
        tokenizer_2: T5TokenizerFast | None = None,
        adapter: TextAdapter | None = None,
        requires_safety_checker: bool = True,
        token_length: int = 240,
        segment_mode: str = "smart",
        overflow: str | None = None,
        max_rows: int = 4800,
        prompt_weights: bool | str | None = None,
    ) -> None:
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            requires_safety_checker=requires_safety_checker,
        )
        _check_branch(text_encoder_2, tokenizer_2, adapter)
        self.register_modules(text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2, adapter=adapter)
        self.prompt_settings = PromptSettings(
            mode=segment_mode,
            overflow=overflow or _usual_overflow(segment_mode),
            rows=token_length,
            max_rows=max_rows,
            weights=prompt_weights,
        )
        self.plans: tuple[Plans, ...] = ()
        self.negative_plans: tuple[Plans, ...] = ()
        self._aligned: tuple[str, ...] = ()
        self._encoder: tuple[Any, LongPromptEncoder] | None = None

    @property
    def prompt_settings(self) -> PromptSettings:
        """How prompts are cut and encoded; assign another one to change it (saved with the pipeline)."""
        return self._prompt_settings

    @prompt_settings.setter
    def prompt_settings(self, settings: PromptSettings) -> None:
        self._prompt_settings = settings
        self.register_to_config(
            token_length=settings.rows,
            segment_mode=settings.mode,
            overflow=settings.overflow,
            max_rows=settings.max_rows,
            prompt_weights=settings.weights,
        )

    @property
    def is_aligned(self) -> bool:
        """Whether its weights were trained on prompts in segments."""
        return bool(self._aligned) or self.adapter is not None

    @property
    def note(self) -> str:
        """One sentence on what long prompts meet here."""
        if self.is_aligned:
            branch = "CLIP segments and T5" if self.adapter is not None else "CLIP segments"
            return f"LongAlign weights ({', '.join(self._aligned) or 'adapter'}) with {branch}"
        return "training-free segments: nothing is dropped, but these weights never trained on long prompts"

    def load_longalign(
        self,
        folder: str | Path,
        strengths: Mapping[str, float] | None = None,
        merge: bool = False,
    ) -> None:
        """Add adapter, T5 and LoRAs of a LongAlign folder (see `parts`).

        Args:
            folder: as the recipes publish it or `convert_longsd` writes it.
            strengths: the LoRAs to use and how strongly. Default: "align" and "reward" fully, where the
                folder has them. Less reward gives up some alignment for quality.
            merge: put the LoRAs into the U-Net's weights (in float32, cast once): faster, but strengths are
                then fixed. Default: keep them apart, so that `set_strengths` works.
        Raises:
            ValueError: not such a folder, or strengths for LoRAs that it doesn't have.
        """
        parts = LongAlignParts.read(folder)
        folder = Path(folder)
        if strengths is None:
            strengths = {name: 1.0 for name in FULL_PICTURE if name in parts.loras}
        missing = sorted(set(strengths) - set(parts.loras))
        if missing:
            raise ValueError(f"{folder} has no LoRA {missing}; it has {list(parts.loras)}")
        branch: dict[str, Any] = {}
        if (folder / "adapter").is_dir():
            branch["adapter"] = TextAdapter.from_pretrained(folder / "adapter")
            if (t5 := t5_folder(folder)) is not None:
                branch["text_encoder_2"] = T5EncoderModel.from_pretrained(t5 / "text_encoder_2")
                branch["tokenizer_2"] = T5TokenizerFast.from_pretrained(t5 / "tokenizer_2")
        merged = {
            **{name: getattr(self, name) for name in ("text_encoder_2", "tokenizer_2", "adapter")},
            **branch,
        }
        _check_branch(**merged)
        device, dtype = self.unet.device, self.unet.dtype
        for model in branch.values():
            if isinstance(model, torch.nn.Module):
                model.to(device=device, dtype=dtype).eval()
        self.register_modules(**branch)
        self._add_loras({name: (read_lora(folder, name), value) for name, value in strengths.items()}, merge)
        self._aligned = tuple(strengths)
        overflow = _usual_overflow(parts.mode)
        self.prompt_settings = replace(
            self.prompt_settings, mode=parts.mode, rows=parts.rows, overflow=overflow
        )

    def _add_loras(self, loras: Mapping[str, tuple[dict[str, Tensor], float]], merge: bool) -> None:
        if merge:
            merge_lora(self.unet, *loras.values())
            return
        for name, (tensors, _) in loras.items():
            self.unet.load_lora_adapter(tensors, adapter_name=name, prefix=None)
        if loras:
            self.unet.set_adapters(list(loras), [strength for _, strength in loras.values()])

    def set_strengths(self, **strengths: float) -> None:
        """Change how strongly LoRAs act, by name; the others keep their strength 1.

        Raises:
            ValueError: a LoRA that isn't loaded, or all are merged.
        """
        loaded = tuple(getattr(self.unet, "peft_config", {}))
        unknown = sorted(set(strengths) - set(loaded))
        if unknown or not loaded:
            raise ValueError(f"LoRAs that can be set are {list(loaded)}, got {sorted(strengths)}")
        self.unet.set_adapters(list(loaded), [strengths.get(name, 1.0) for name in loaded])

    def use_few_steps(self) -> None:
        """Switch to the scheduler of distilled weights; paint with 4 steps and `guidance_scale=0` then."""
        config = self.components["scheduler"].config
        scheduler = LongAlignLCMScheduler.from_config(config, original_inference_steps=20)
        self.register_modules(scheduler=scheduler)

    def long_encoder(self, clip_skip: int | None = None) -> LongPromptEncoder:
        """The encoder with its memory; a new one when parts or settings have changed."""
        parts = (self.text_encoder, self.tokenizer, self.text_encoder_2, self.tokenizer_2, self.adapter)
        key = (*map(id, parts), self.prompt_settings, clip_skip)
        if self._encoder is None or self._encoder[0] != key:
            built = LongPromptEncoder.from_pipeline(self, self.prompt_settings, clip_skip=clip_skip or 0)
            self._encoder = (key, built)
        return self._encoder[1]

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None,
        device: torch.device | None,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Conditioning `[B, rows, C]` of prompts and negative prompts of any length, of equal length.

        Arguments as in `StableDiffusionPipeline.encode_prompt`; `plans` and `negative_plans` tell afterwards
        what became of the words.
        """
        self.plans = self.negative_plans = ()
        guided = do_classifier_free_guidance and negative_prompt_embeds is None
        if prompt_embeds is None or guided:
            encoded = self._encode(prompt, prompt_embeds, negative_prompt, guided, lora_scale, clip_skip)
            prompt_embeds = encoded.prompt_embeds if prompt_embeds is None else prompt_embeds
            if guided:
                negative_prompt_embeds = encoded.negative_prompt_embeds
        both = [prompt_embeds, negative_prompt_embeds] if do_classifier_free_guidance else [prompt_embeds]
        shapes = [list(embeds.shape) for embeds in both if embeds is not None]
        if shapes[0] != shapes[-1]:
            raise ValueError(f"prompt and negative prompt have embeddings {shapes}; they must be alike")
        dtype = self.unet.dtype
        out = [
            embeds.to(device=device, dtype=dtype).repeat_interleave(num_images_per_prompt, 0)
            for embeds in both
            if embeds is not None
        ]
        return out[0], out[1] if len(out) > 1 else None

    def _encode(
        self,
        prompt: str | Sequence[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt: str | Sequence[str] | None,
        guided: bool,
        lora_scale: float | None,
        clip_skip: int | None,
    ) -> EncodedPrompts:
        encoder = self.long_encoder(clip_skip)
        texts: Any = [""] * len(prompt_embeds) if prompt_embeds is not None else prompt
        texts = self.maybe_convert_prompt(texts, self.tokenizer)
        if negative_prompt is not None:
            negative_prompt = self.maybe_convert_prompt(negative_prompt, self.tokenizer)
        if lora_scale is None:
            encoded = encoder(texts, negative_prompt, guided=guided)
        else:
            assert isinstance(encoder.conditioning, SegmentConditioning)
            forget = encoder.conditioning.forget
            forget()  # the memory can't see a scale
            scale_lora_layers(self.text_encoder, lora_scale)
            try:
                encoded = encoder(texts, negative_prompt, guided=guided)
            finally:
                unscale_lora_layers(self.text_encoder, lora_scale)
                forget()
        self.plans = () if prompt_embeds is not None else encoded.plans
        self.negative_plans = encoded.negative_plans
        return encoded

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        **options: Any,
    ) -> Any:
        """Paint.

        Args:
            prompt, negative_prompt: texts of any length; one negative prompt may serve all prompts.
            height, width: pixels, multiples of 8. Default: what the U-Net was trained on.
            num_inference_steps: denoising steps; 4 with distilled weights.
            guidance_scale: classifier-free guidance; LongAlign's weights over-saturate above 7.5.
            options: everything else that `StableDiffusionPipeline` takes (generator, latents, output_type,
                callback_on_step_end, num_images_per_prompt, prompt_embeds, ...).
        Returns:
            `StableDiffusionPipelineOutput`, or a tuple with `return_dict=False`.
        Raises:
            ValueError: a bad argument, with what was given and what is allowed.
        """
        if isinstance(prompt, list) and isinstance(negative_prompt, str):
            negative_prompt = [negative_prompt] * len(prompt)
        return super().__call__(
            prompt=prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            **options,
        )


def _usual_overflow(mode: str) -> str:
    return "truncate" if mode == "official" else "grow"


def _check_branch(text_encoder_2: Any, tokenizer_2: Any, adapter: Any) -> None:
    given = {"text_encoder_2": text_encoder_2, "tokenizer_2": tokenizer_2, "adapter": adapter}
    absent = [name for name, part in given.items() if part is None]
    if absent and len(absent) < len(given):
        raise ValueError(f"the T5 branch needs {list(given)}; {absent} are missing")
