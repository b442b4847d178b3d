"""Text to picture at any size: a small picture first, then steps of up to 4x, each guided by the last."""

import math
from collections.abc import Callable
from typing import Any

import torch
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

from pipelines.kernels.local_attention.op import BACKENDS
from pipelines.outputs import ImageOutput
from pipelines.scale_dit.decode import decode_tiled
from pipelines.scale_dit.stage_loop import StageLoop, Words
from pipelines.scale_dit.stages import Stage, plan_stages

TEXT_MULTIPLE = 8
TEXT_LIMIT = 512
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class ScaleDiTPipeline(DiffusionPipeline, FluxLoraLoaderMixin):
    """Scale-DiT over FLUX.1-type components (the folder layout is that of diffusers' `FluxPipeline`).

    The base size is the side of the square with `scheduler.config.max_image_seq_len` tokens of 16 px: 1024 px
    for FLUX.1-dev, 128 px for Storybook.

    Source: arXiv 2510.16325. Steps start from the enlarged latents of the stage before at noise level
    `high_res_strength`; guide tokens sit at scaled anchors and are encoded once per stage.

    Attributes:
        stages: sizes of the last call. stage_index, step_in_stage: where it is (read them in callbacks).
        attention_backend: "dense", or the kernel that the large stages of the last call took.
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
        self.attention_backend = "dense"
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def base_size(self) -> int:
        """Side in pixels of the square that is painted in one stage."""
        return round(self.scheduler.config.max_image_seq_len**0.5) * 16

    @property
    def text_limit(self) -> int:
        """T5 tokens that are read at most."""
        return TEXT_LIMIT

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def check_inputs(
        self,
        *,
        prompt: Any,
        negative_prompt: Any,
        prompt_embeds: torch.Tensor | None,
        pooled_prompt_embeds: torch.Tensor | None,
        guidance_scale: float,
        output_type: str,
        tensor_names: list[str],
        attention_backend: str,
    ) -> None:
        """Raise ValueError with what was given and what is allowed."""
        if (prompt is None) == (prompt_embeds is None) or (prompt_embeds is None) != (
            pooled_prompt_embeds is None
        ):
            raise ValueError("give either prompt, or prompt_embeds together with pooled_prompt_embeds")
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if not (text is None or isinstance(text, str) or (isinstance(text, list) and text)):
                raise ValueError(f"{name} must be a string or a list of strings, got {text!r:.80}")
        count = (
            len(prompt_embeds) if prompt_embeds is not None else 1 if isinstance(prompt, str) else len(prompt)
        )
        if isinstance(negative_prompt, list) and len(negative_prompt) != count:
            raise ValueError(f"{len(negative_prompt)} negative prompts were given for {count} prompts")
        if not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale is {guidance_scale}; it must be finite")
        if negative_prompt is not None and (guidance_scale == 1.0 or self.transformer.config.guidance_embeds):
            raise ValueError("negative_prompt has no effect without classifier-free guidance")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; it must be one of {OUTPUT_TYPES}")
        unknown = sorted(set(tensor_names) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(f"callback tensors {unknown} are not among {self._callback_tensor_inputs}")
        if attention_backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"attention_backend is {attention_backend!r}; it must be auto or one of {BACKENDS}"
            )

    def encode_prompt(
        self, prompt: str | list[str], max_sequence_length: int = TEXT_LIMIT, width: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states `[B, T, J]` and pooled CLIP vectors `[B, P]`.

        T is `width`, or the longest text rounded up to a multiple of 8, at most `max_sequence_length`; longer
        texts are cut, shorter ones padded. Padding is not masked, as in `FluxPipeline`.
        """
        texts = [prompt] if isinstance(prompt, str) else prompt
        if width is None:
            width = max(self._text_widths(texts, max_sequence_length))
        pad = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer_2(texts, max_length=width, **pad).input_ids
        clip_ids = self.tokenizer(texts, max_length=self.tokenizer.model_max_length, **pad).input_ids
        device, dtype = self._execution_device, self.transformer.dtype
        text = self.text_encoder_2(ids.to(device))[0]
        pooled = self.text_encoder(clip_ids.to(device)).pooler_output
        return text.to(dtype), pooled.to(dtype)

    def _text_widths(self, texts: list[str], limit: int) -> list[int]:
        """T5 tokens of each text, rounded up to a multiple of 8, at most `limit`."""
        lengths = [len(ids) for ids in self.tokenizer_2(texts, truncation=True, max_length=limit).input_ids]
        return [min(math.ceil(length / TEXT_MULTIPLE) * TEXT_MULTIPLE, limit) for length in lengths]

    def _encode_all(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        embeds: torch.Tensor | None,
        pooled: torch.Tensor | None,
        limit: int,
    ) -> tuple[Words, Words | None]:
        """Words of the prompts and of the negative prompts, picture by picture of the same width."""
        if prompts is None:
            assert embeds is not None and pooled is not None  # check_inputs saw to that
            device, dtype = self._execution_device, self.transformer.dtype
            embeds, pooled = embeds.to(device, dtype), pooled.to(device, dtype)
            words = Words(embeds, pooled, (embeds.shape[1],) * len(embeds))
        else:
            widths = self._text_widths(prompts, limit)
            if negatives is not None:
                widths = [max(pair) for pair in zip(widths, self._text_widths(negatives, limit), strict=True)]
            words = self._encode_words(prompts, tuple(widths))
        return words, None if negatives is None else self._encode_words(negatives, words.widths)

    def _encode_words(self, texts: list[str], widths: tuple[int, ...]) -> Words:
        """Encode each text at its own width: its states must not depend on the others of the batch."""
        states: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        pooled = list(states)
        for width in sorted(set(widths)):
            rows = [row for row, own in enumerate(widths) if own == width]
            encoded = self.encode_prompt([texts[row] for row in rows], width=width)
            for row, *parts in zip(rows, *encoded, strict=True):
                states[row], pooled[row] = parts
        return Words(torch.nn.utils.rnn.pad_sequence(states, batch_first=True), torch.stack(pooled), widths)

    def prepare_latents(
        self,
        batch: int,
        stage: Stage,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noise `[B, C, height / 8, width / 8]` float32, or `latents` after a check of their shape."""
        shape = (batch, self.vae.config.latent_channels, stage.height // 8, stage.width // 8)
        if latents is None:
            return randn_tensor(
                shape, generator=generator, device=self._execution_device, dtype=torch.float32
            )
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents are {list(latents.shape)}; the first stage needs {list(shape)}")
        return latents.to(self._execution_device, torch.float32)

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
        high_res_strength: float = 0.5,
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
        max_sequence_length: int = TEXT_LIMIT,
    ) -> ImageOutput | tuple:
        """Paint.

        Args:
            prompt, negative_prompt: one text, or one per picture; the negative one is used by classifier-free
                guidance (default: empty).
            height, width: pixels, multiples of 16, at least 64. Default: the base size.
            num_inference_steps: steps of the first stage. high_res_steps: steps of each further stage.
            guidance_scale: real classifier-free guidance of the first stage; 1 switches it off. A transformer
                with a guidance embedding is told it in every stage instead.
            high_res_strength: noise level in (0, 1] at which a further stage starts from enlarged latents.
            num_images_per_prompt: pictures per prompt.
            generator: one, or a list with one per picture.
            latents: noise of the first stage, `[B, C, h / 8, w / 8]`.
            prompt_embeds, pooled_prompt_embeds: instead of `prompt`, as `encode_prompt` returns them.
            output_type: "pil", "np", "pt" (floats in [0, 1], `[B, 3, H, W]`) or "latent"
                (`[B, C, H / 8, W / 8]` in the transformer's scale).
            callback_on_step_end: `(pipe, step, timestep, tensors) -> dict`; steps count over all stages.
                Tensors: "latents" and "denoised" (the present estimate of the result), both packed
                `[B, N, 4 C]` in raster order, and "prompt_embeds"; those returned are used from then on. Set
                `pipe._interrupt = True` in it to stop.
            callback_on_tile: called with (tiles done, tiles) while decoding; True stops.
            attention_backend: "auto" or a name of `kernels/local_attention`, for stages of over 1,024 tokens.
            max_sequence_length: T5 tokens at most, up to 512.
        Returns:
            `ImageOutput`, or a tuple of its fields. After a stop, `images` is empty.
        Raises:
            ValueError: a bad argument, with what was given and what is allowed.
        """
        # 1. check
        height = self.base_size if height is None else height
        width = self.base_size if width is None else width
        self.check_inputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            guidance_scale=guidance_scale,
            output_type=output_type,
            tensor_names=callback_on_step_end_tensor_inputs,
            attention_backend=attention_backend,
        )
        _check_range("num_inference_steps", num_inference_steps, 1)
        _check_range("high_res_steps", high_res_steps, 1)
        _check_range("num_images_per_prompt", num_images_per_prompt, 1)
        _check_range("max_sequence_length", max_sequence_length, 1, TEXT_LIMIT)
        if not 0.0 < high_res_strength <= 1.0:
            raise ValueError(f"high_res_strength is {high_res_strength}; it must lie in (0, 1]")
        self.stages = plan_stages(height, width, self.base_size)
        # 2. batch and device
        prompts = [prompt] if isinstance(prompt, str) else prompt
        count = prompt_embeds.shape[0] if prompts is None else len(prompts)  # type: ignore[union-attr]
        batch = count * num_images_per_prompt
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"{len(generator)} generators were given for {batch} pictures")
        noise = self.prepare_latents(batch, self.stages[0], generator, latents)
        self._interrupt = False
        self.attention_backend = "dense"
        self._num_timesteps = num_inference_steps + high_res_steps * (len(self.stages) - 1)
        # 3. text
        negatives = None
        if guidance_scale != 1.0 and not self.transformer.config.guidance_embeds:
            negatives = (
                negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * count
            )
        words, negative = self._encode_all(
            prompts, negatives, prompt_embeds, pooled_prompt_embeds, max_sequence_length
        )

        # 4. paint
        def report(
            index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            bar.update()
            if callback_on_step_end is None:
                return {}
            self.step_in_stage = index
            before = self.stage_index and num_inference_steps + high_res_steps * (self.stage_index - 1)
            chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
            return callback_on_step_end(self, before + index, timestep, chosen) or {}

        loop = StageLoop(
            transformer=self.transformer,
            scheduler=self.scheduler,
            words=words.repeat(num_images_per_prompt),
            negative=negative and negative.repeat(num_images_per_prompt),
            guidance_scale=guidance_scale,
            backend=attention_backend,
            report=report,
            is_stopped=lambda: self._interrupt,
        )
        with self.progress_bar(total=self._num_timesteps) as bar:
            self.stage_index = 0
            z = loop.paint(noise, self.stages[0], num_inference_steps)
            for index, stage in enumerate(self.stages[1:], start=1):
                if self._interrupt:
                    break
                self.stage_index = index
                noise = self.prepare_latents(batch, stage, generator)
                z = loop.enlarge(z, noise, stage, high_res_steps, high_res_strength)
                self.attention_backend = loop.used_backend
        # 5. decode
        images: Any = [] if self._interrupt else self._decode(z, output_type, callback_on_tile)
        self.maybe_free_model_hooks()
        return ImageOutput(images=images, stages=self.stages) if return_dict else (images, self.stages)

    def _decode(self, z: torch.Tensor, output_type: str, on_tile: Callable[[int, int], bool] | None) -> Any:
        if output_type == "latent":
            return z
        scaled = z / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        pictures = decode_tiled(self.vae, scaled, on_tile)
        if pictures is None:
            self._interrupt = True
            return []
        return self.image_processor.postprocess(pictures, output_type=output_type)


def _check_range(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")
