"""Text to picture at any size with FLUX.1-type parts."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.loaders import FluxLoraLoaderMixin
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from pipelines.scale_dit.lora_routing import LoraScope
from pipelines.scale_dit.pipeline_staged import TEXT_LIMIT, StagedPipeline, round_up
from pipelines.scale_dit.stages import Stage
from pipelines.storybook.guidance import FLUX_GUIDANCE

TEXT_MULTIPLE = 8


class ScaleDiTPipeline(StagedPipeline, FluxLoraLoaderMixin):
    """Scale-DiT over FLUX.1-type components (the folder layout is that of diffusers' `FluxPipeline`).

    Source: arXiv 2510.16325, version 1.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    default_lora_scope: LoraScope = "low+qkv_hi"

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: T5TokenizerFast,
        transformer: FluxTransformer2DModel,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            transformer=transformer,
        )
        # what FLUX.1-dev is told; and what storybook-flux paints best with, as its eyes see it
        self.default_guidance = 3.5 if transformer.config.guidance_embeds else FLUX_GUIDANCE
        self._begin()

    def encode_prompt(
        self, prompt: str | list[str], max_sequence_length: int = TEXT_LIMIT, width: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states `[B, T, J]` and pooled CLIP vectors `[B, P]`.

        T is `width`, or the longest text rounded up to a multiple of 8, at most `max_sequence_length`; longer
        texts are cut, shorter ones padded. Padding is not masked, as in `FluxPipeline`.
        """
        texts = [prompt] if isinstance(prompt, str) else prompt
        if width is None:
            width = max(self._text_widths(texts, max_sequence_length, TEXT_MULTIPLE))
        pad = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer_2(texts, max_length=width, **pad).input_ids
        clip_ids = self.tokenizer(texts, max_length=self.tokenizer.model_max_length, **pad).input_ids
        device, dtype = self._execution_device, self.transformer.dtype
        text = self.text_encoder_2(ids.to(device))[0]
        pooled = self.text_encoder(clip_ids.to(device)).pooler_output
        return text.to(dtype), pooled.to(dtype)

    def _text_widths(self, texts: list[str], limit: int, multiple: int) -> list[int]:
        ids = self.tokenizer_2(texts, truncation=True, max_length=limit).input_ids
        return [round_up(len(own), multiple, limit) for own in ids]

    def _latent_shape(self, stage: Stage) -> tuple[int, int, int]:
        return self.vae.config.latent_channels, stage.height // 8, stage.width // 8

    def _to_vae_scale(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)

    def _from_vae_scale(self, means: torch.Tensor) -> torch.Tensor:
        return (means - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor
