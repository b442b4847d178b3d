"""Text to picture at any size: a small picture first, then steps of up to 4x, each guided by the one before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import FluxLoraLoaderMixin
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import explain
from pipelines.outputs import ImageOutput
from pipelines.scale_dit.decode import decode_tiled
from pipelines.scale_dit.stages import Stage, plan_stages, size_problem
from pipelines.scale_dit.transformer_scale_dit import (
    Attend,
    GuideCache,
    anchors,
    denoise,
    dense_attention,
    encode_guide,
    local_attention,
    pack,
    unpack,
)

DENSE_LIMIT = 1024  # tokens up to which every token sees every other: local attention gains nothing there
TEXT_MULTIPLE = 8


@dataclass
class _Painting:
    """What the stages of one call share."""

    text: torch.Tensor
    pooled: torch.Tensor
    negative: tuple[torch.Tensor, torch.Tensor] | None
    guidance_scale: float
    generator: torch.Generator | list[torch.Generator] | None
    backend: str


class ScaleDiTPipeline(DiffusionPipeline, FluxLoraLoaderMixin):
    """Scale-DiT over FLUX.1-type components (the folder layout is that of diffusers' `FluxPipeline`).

    The base size is the side of the square with `scheduler.config.max_image_seq_len` tokens of 16 px: 1024 px for
    FLUX.1-dev, 128 px for Storybook.

    Source: arXiv 2510.16325. Steps start from the enlarged latents of the stage before at noise level
    `high_res_strength`; guide tokens sit at scaled anchors and are encoded once per stage.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    _callback_tensor_inputs = ["latents", "denoised", "prompt_embeds"]

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
        self.image_processor = VaeImageProcessor(vae_scale_factor=16)
        self.stages: tuple[Stage, ...] = ()
        self.stage_index = 0
        self.step_in_stage = 0
        self.attention_backend = ""
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def base_size(self) -> int:
        """Side in pixels of the square that is painted in one stage."""
        return round(self.scheduler.config.max_image_seq_len**0.5) * 16

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def check_inputs(
        self, prompt: Any, height: int, width: int, steps: int, high_res_steps: int, names: list[str]
    ) -> None:
        """Raise ValueError with what was given and what is allowed."""
        problem = size_problem(height, width)
        if problem:
            raise ValueError(problem)
        for name, value in (("num_inference_steps", steps), ("high_res_steps", high_res_steps)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if prompt is not None and not isinstance(prompt, (str, list)):
            raise ValueError(f"prompt must be a string or a list of strings, got {type(prompt).__name__}")
        unknown = sorted(set(names) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(f"callback tensors {unknown} are not among {self._callback_tensor_inputs}")

    def encode_prompt(
        self, prompt: str | list[str], max_sequence_length: int = 512
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states `[B, T, J]` and pooled CLIP vectors `[B, P]`.

        T is the longest text rounded up to a multiple of 8, at most `max_sequence_length`; padding is not masked,
        as in `FluxPipeline`.
        """
        texts = [prompt] if isinstance(prompt, str) else prompt
        lists = self.tokenizer_2(texts, truncation=True, max_length=max_sequence_length).input_ids
        longest = max(len(ids) for ids in lists)
        width = min(-(-longest // TEXT_MULTIPLE) * TEXT_MULTIPLE, max_sequence_length)
        ids = self.tokenizer_2.pad(
            {"input_ids": lists}, padding="max_length", max_length=width, return_tensors="pt"
        )
        device = self._execution_device
        text = self.text_encoder_2(ids.input_ids.to(device))[0]
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        pooled = self.text_encoder(tokens.input_ids.to(device)).pooler_output
        dtype = self.transformer.dtype
        return text.to(dtype), pooled.to(dtype)

    def prepare_latents(
        self, batch: int, stage: Stage, generator: torch.Generator | list[torch.Generator] | None
    ) -> torch.Tensor:
        """Noise `[B, C, height / 8, width / 8]` float32."""
        shape = (batch, self.vae.config.latent_channels, stage.height // 8, stage.width // 8)
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"{len(generator)} generators were given for a batch of {batch}")
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        high_res_steps: int = 8,
        guidance_scale: float = 3.0,
        high_res_strength: float = 0.7,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  (diffusers' signature)
        callback_on_tile: Callable[[int, int], bool] | None = None,
        attention_backend: str = "auto",
        max_sequence_length: int = 512,
    ) -> ImageOutput | tuple:
        """Paint.

        Args:
            prompt, negative_prompt: text; the negative one is used by classifier-free guidance (default: empty).
            height, width: pixels, multiples of 16, at least 64. Default: the base size.
            num_inference_steps: steps of the first stage. high_res_steps: steps of each further stage.
            guidance_scale: real classifier-free guidance of the first stage; 1 switches it off.
            high_res_strength: noise level in (0, 1] at which a further stage starts from the enlarged latents.
            num_images_per_prompt: pictures per prompt.
            generator: one, or a list with one per picture.
            latents: noise of the first stage, `[B, C, h / 8, w / 8]`.
            prompt_embeds, pooled_prompt_embeds: instead of `prompt`.
            output_type: "pil", "np", "pt" (floats in [0, 1], `[B, 3, H, W]`) or "latent" (`[B, C, H / 8, W / 8]`).
            callback_on_step_end: `(pipe, step, timestep, tensors) -> dict`; steps count over all stages. Tensors:
                "latents" and "denoised" (the present estimate of the result), both packed `[B, N, 4 C]` in raster
                order, "prompt_embeds". Set `pipe._interrupt = True` in it to stop.
            callback_on_tile: called with (tiles done, tiles) while decoding; True stops.
            attention_backend: of `kernels/local_attention`.
            max_sequence_length: T5 tokens at most.
        Returns:
            `ImageOutput`, or a tuple of its fields. After a stop, `images` is empty.
        Raises:
            ValueError: bad sizes, counts or names.
        """
        # 1. check
        height, width = height or self.base_size, width or self.base_size
        self.check_inputs(
            prompt, height, width, num_inference_steps, high_res_steps, callback_on_step_end_tensor_inputs
        )
        if prompt is None and (prompt_embeds is None or pooled_prompt_embeds is None):
            raise ValueError("give prompt, or prompt_embeds together with pooled_prompt_embeds")
        if not 0.0 < high_res_strength <= 1.0:
            raise ValueError(f"high_res_strength is {high_res_strength}; it must lie in (0, 1]")
        self._interrupt = False
        # 2. text
        if prompt_embeds is None or pooled_prompt_embeds is None:
            prompt_embeds, pooled_prompt_embeds = self.encode_prompt(prompt, max_sequence_length)
        prompt_embeds = prompt_embeds.repeat_interleave(num_images_per_prompt, 0)
        pooled_prompt_embeds = pooled_prompt_embeds.repeat_interleave(num_images_per_prompt, 0)
        batch = prompt_embeds.shape[0]
        negative = None
        if guidance_scale != 1.0:
            negative = self._negative(negative_prompt, batch, prompt_embeds.shape[1])
        # 3. stages
        self.stages = plan_stages(height, width, self.base_size)
        self._num_timesteps = num_inference_steps + high_res_steps * (len(self.stages) - 1)
        shared = _Painting(
            prompt_embeds, pooled_prompt_embeds, negative, guidance_scale, generator, attention_backend
        )

        def report(
            step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            if callback_on_step_end is None:
                return {}
            tensors["prompt_embeds"] = shared.text
            chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
            answer = callback_on_step_end(self, step, timestep, chosen) or {}
            shared.text = answer.get("prompt_embeds", shared.text)
            return answer

        # 4. paint
        z = None
        with self.progress_bar(total=self._num_timesteps) as bar:
            for self.stage_index, stage in enumerate(self.stages):
                noise = (
                    latents
                    if latents is not None and z is None
                    else self.prepare_latents(batch, stage, generator)
                )
                if z is None:
                    z = self._first_stage(noise.float(), stage, shared, num_inference_steps, report, bar)
                else:
                    z = self._next_stage(
                        z, noise, stage, shared, high_res_steps, high_res_strength, report, bar
                    )
                if self._interrupt:
                    break
        # 5. decode
        images: Any = []
        if not self._interrupt:
            images = self._decode(z, output_type, callback_on_tile)
        self.maybe_free_model_hooks()
        return ImageOutput(images=images, stages=self.stages) if return_dict else (images, self.stages)

    def _negative(
        self, negative_prompt: str | list[str] | None, batch: int, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the negative prompt, cut or padded (by its own last state) to the prompt's length."""
        texts = (
            [negative_prompt or ""] if isinstance(negative_prompt or "", str) else list(negative_prompt or [])
        )
        text, pooled = self.encode_prompt(texts)
        if text.shape[1] < length:
            text = torch.cat([text, text[:, -1:].expand(-1, length - text.shape[1], -1)], 1)
        return text[:, :length].expand(batch, -1, -1), pooled.expand(batch, -1)

    def _schedule(self, steps: int, start: float) -> FlowMatchEulerDiscreteScheduler:
        """A scheduler of this call's own (they hold state) with `steps` steps from noise level `start`."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config, use_dynamic_shifting=False)
        sigmas = torch.linspace(start, start / steps, steps).tolist()
        scheduler.set_timesteps(sigmas=sigmas, device=self._execution_device)
        return scheduler

    def _first_stage(self, noise: torch.Tensor, stage: Stage, shared: _Painting, steps: int, report: Any, bar: Any) -> torch.Tensor:  # fmt: skip
        scheduler = self._schedule(steps, 1.0)
        x = pack(noise)
        ids = anchors(stage.grid).to(x.device)
        attend = dense_attention(shared.text.shape[1])
        for index, timestep in enumerate(scheduler.timesteps):
            if self._interrupt:
                break
            self.step_in_stage = index
            velocity = self._velocity(
                x, timestep, ids, attend, None, shared, guided=shared.negative is not None
            )
            x, denoised = _euler(scheduler, velocity, timestep, x)
            answer = report(index, timestep, {"latents": x, "denoised": denoised})
            x = answer.get("latents", x)
            bar.update()
        return unpack(x, stage.grid)

    def _next_stage(self, low: torch.Tensor, noise: torch.Tensor, stage: Stage, shared: _Painting, steps: int, strength: float, report: Any, bar: Any) -> torch.Tensor:  # fmt: skip
        scheduler = self._schedule(steps, strength)
        level = float(scheduler.sigmas[0])
        enlarged = F.interpolate(low, size=noise.shape[-2:], mode="bicubic", align_corners=False)
        x = pack((1 - level) * enlarged + level * noise)
        low_grid = (low.shape[-2] // 2, low.shape[-1] // 2)
        image_ids, guide_ids = anchors(stage.grid).to(x.device), anchors(low_grid, stage.grid).to(x.device)
        order, inverse, attend, guide = self._guide(low, low_grid, guide_ids, stage, shared)
        x, image_ids = x[:, order], image_ids[order]
        first = self._num_timesteps - steps * (len(self.stages) - self.stage_index)
        for index, timestep in enumerate(scheduler.timesteps):
            if self._interrupt:
                break
            self.step_in_stage = index
            velocity = self._velocity(x, timestep, image_ids, attend, guide, shared, guided=False)
            x, denoised = _euler(scheduler, velocity, timestep, x)
            answer = report(
                first + index, timestep, {"latents": x[:, inverse], "denoised": denoised[:, inverse]}
            )
            if "latents" in answer:
                x = answer["latents"][:, order]
            bar.update()
        return unpack(x[:, inverse], stage.grid)

    def _guide(
        self,
        low: torch.Tensor,
        low_grid: tuple[int, int],
        guide_ids: torch.Tensor,
        stage: Stage,
        shared: _Painting,
    ) -> tuple[torch.Tensor, torch.Tensor, Attend, GuideCache]:
        """Order and inverse of the image tokens, their attention, and the encoded guide."""
        tokens = pack(low).to(self.transformer.dtype)
        if stage.tokens <= DENSE_LIMIT:
            order = torch.arange(stage.tokens, device=low.device)
            cache = encode_guide(self.transformer, tokens, shared.pooled, guide_ids, dense_attention(0))
            self.attention_backend = "dense"
            return order, order, dense_attention(shared.text.shape[1]), cache
        layout = AttentionLayout(shared.text.shape[1], stage.grid, low_grid)
        alone = AttentionLayout(0, low_grid)  # the guide attends to itself alone, as a picture of its own
        own = alone.image_order.order.to(low.device)
        attend = dense_attention(0) if alone.image <= DENSE_LIMIT else local_attention(alone, shared.backend)
        cache = encode_guide(self.transformer, tokens[:, own], shared.pooled, guide_ids[own], attend)
        back = alone.image_order.inverse[layout.guide_order.order].to(low.device)
        cache = [(key[:, back], value[:, back]) for key, value in cache]
        self.attention_backend = (
            explain(layout, cache[0][0]).backend if shared.backend == "auto" else shared.backend
        )
        image_order = layout.image_order
        attend = local_attention(layout, shared.backend)
        return image_order.order.to(low.device), image_order.inverse.to(low.device), attend, cache

    def _velocity(
        self, x: torch.Tensor, timestep: torch.Tensor, ids: torch.Tensor, attend: Attend, guide: GuideCache | None,
        shared: _Painting, *, guided: bool,
    ) -> torch.Tensor:  # fmt: skip
        dtype = self.transformer.dtype
        tokens, text, pooled = x.to(dtype), shared.text, shared.pooled
        if guided and shared.negative is not None:
            tokens = torch.cat([tokens, tokens])
            text, pooled = torch.cat([shared.negative[0], text]), torch.cat([shared.negative[1], pooled])
        times = (timestep / 1000).to(dtype).expand(tokens.shape[0])
        out = denoise(
            self.transformer, tokens, text, pooled, times, image_ids=ids, attend=attend, guide=guide
        ).float()
        if not guided:
            return out
        plain, asked = out.chunk(2)
        return plain + shared.guidance_scale * (asked - plain)

    def _decode(self, z: torch.Tensor, output_type: str, on_tile: Callable[[int, int], bool] | None) -> Any:
        if output_type == "latent":
            return z
        scaled = z / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        pictures = decode_tiled(self.vae, scaled, on_tile)
        if pictures is None:
            self._interrupt = True
            return []
        return self.image_processor.postprocess(pictures, output_type=output_type)


def _euler(
    scheduler: Any, velocity: torch.Tensor, timestep: torch.Tensor, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One scheduler step, and the estimate of the clean latents it was made with."""
    denoised = x - timestep / 1000 * velocity
    return scheduler.step(velocity, timestep, x, return_dict=False)[0], denoised
