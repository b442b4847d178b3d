"""Text to picture at any size with FLUX.2-type parts."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from diffusers.loaders import Flux2LoraLoaderMixin
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

from pipelines.scale_dit.pipeline_staged import TEXT_LIMIT, StagedPipeline
from pipelines.scale_dit.stages import Stage
from pipelines.scale_dit.transformer_scale_dit import pack, unpack


class ScaleDiTFlux2Pipeline(StagedPipeline, Flux2LoraLoaderMixin):
    """Scale-DiT over FLUX.2-type components (the folder layout is that of diffusers' `Flux2KleinPipeline`).

    Latents are denoised as the model knows them: 2 x 2 patches in the channels, `[B, 4 C, H / 16, W / 16]`,
    in the scale of the autoencoder's batch norm. Text is padded to `max_sequence_length`.

    Args:
        is_distilled: a few-step model that takes no classifier-free guidance; the default scale is then 1.
    Source: arXiv 2510.16325, version 2.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    patch = 1
    takes_pooled = False

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLFlux2,
        text_encoder: Qwen3ForCausalLM,
        tokenizer: Qwen2TokenizerFast,
        transformer: Flux2Transformer2DModel,
        is_distilled: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
        )
        self.register_to_config(is_distilled=is_distilled)
        self.default_guidance = 1.0 if is_distilled else 4.0
        self._begin()

    def encode_prompt(
        self, prompt: str | list[str], max_sequence_length: int = TEXT_LIMIT, width: int | None = None
    ) -> tuple[torch.Tensor, None]:
        """States `[B, T, 3 J]` of the encoder's layers at a quarter, half and three quarters of its depth.

        T is `width`, or `max_sequence_length`; longer texts are cut, shorter ones padded, as in
        `Flux2KleinPipeline`. There is no pooled vector.
        """
        depth = self.text_encoder.config.num_hidden_layers
        text = Flux2KleinPipeline._get_qwen3_prompt_embeds(
            self.text_encoder,
            self.tokenizer,
            prompt,
            dtype=self.transformer.dtype,
            device=self._execution_device,
            max_sequence_length=width or max_sequence_length,
            hidden_states_layers=[depth * part // 4 for part in (1, 2, 3)],
        )
        return text, None

    def _text_widths(self, texts: list[str], limit: int, multiple: int) -> list[int]:
        return [limit] * len(texts)

    def _latent_shape(self, stage: Stage) -> tuple[int, int, int]:
        return self.transformer.config.in_channels, *stage.grid

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation `[4 C, 1, 1]` of the autoencoder's batch norm."""
        norm: Any = self.vae.bn
        mean, variance = (part.to(like)[:, None, None] for part in (norm.running_mean, norm.running_var))
        return mean, torch.sqrt(variance + self.vae.config.batch_norm_eps)

    def _to_vae_scale(self, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._statistics(latents)
        tokens = (latents * deviation + mean).flatten(2).transpose(1, 2)
        return unpack(tokens, (latents.shape[2], latents.shape[3]))

    def _from_vae_scale(self, means: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._statistics(means)
        patches = pack(means).transpose(1, 2).unflatten(2, (means.shape[2] // 2, means.shape[3] // 2))
        return (patches - mean) / deviation
