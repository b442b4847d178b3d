"""What both pipelines share: a small picture first, then steps of up to 4x, each guided by the last."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from pipelines.kernels.local_attention.op import BACKENDS
from pipelines.outputs import ImageOutput
from pipelines.scale_dit.decode import decode_tiled, encode_tiled, enlarge_pixels
from pipelines.scale_dit.high_res import EnlargeMode, HighResOptions
from pipelines.scale_dit.lora_routing import ADAPTER, LoraRouting, LoraScope, stored_scope
from pipelines.scale_dit.stage_loop import Report, StageLoop
from pipelines.scale_dit.stages import Stage, plan_stages
from pipelines.scale_dit.tiles import count_tiles
from pipelines.scale_dit.words import Words

TEXT_LIMIT = 512
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# noise levels at which further stages begin: what adapters learn; without one objects lose parts at 0.5
ADAPTED_STRENGTH, PLAIN_STRENGTH = 0.5, 0.35


class StagedPipeline(DiffusionPipeline):
    """Stages, steps, callbacks and decoding; subclasses know their text encoders and latents.

    The base size is the side of the square with `scheduler.config.max_image_seq_len` tokens of 16 px: 1024 px
    for FLUX.1-dev and FLUX.2, 128 px for Storybook.

    Source: arXiv 2510.16325. Steps start from the enlarged latents of the stage before at noise level
    `high_res_strength`; guide tokens sit at scaled anchors and are encoded once per stage.

    Attributes:
        stages: sizes of the last call. stage_index, step_in_stage: where it is (read them in callbacks).
        attention_backend: "dense", or the kernel that the large stages of the last call took.
    """

    _callback_tensor_inputs = ["latents", "denoised", "prompt_embeds"]
    default_guidance = 3.0
    default_lora_scope: LoraScope = "low"
    patch = 2  # latents per token and side
    takes_pooled = True

    # registered by subclasses
    scheduler: Any
    vae: Any
    transformer: Any

    def _begin(self) -> None:
        """What every pipeline holds beside its parts."""
        self.image_processor = VaeImageProcessor(vae_scale_factor=16)
        self.stages: tuple[Stage, ...] = ()
        self.stage_index = 0
        self.step_in_stage = 0
        self.attention_backend = "dense"
        self._lora_routing: LoraRouting | None = None
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def base_size(self) -> int:
        """Side in pixels of the square that is painted in one stage."""
        return round(self.scheduler.config.max_image_seq_len**0.5) * 16

    @property
    def lora_routing(self) -> LoraRouting | None:
        """Which tokens the adapter of `load_scale_dit_lora` acts on; None while there is none."""
        return self._lora_routing if ADAPTER in getattr(self.transformer, "peft_config", {}) else None

    @property
    def text_limit(self) -> int:
        """Text tokens that are read at most."""
        return TEXT_LIMIT

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @abstractmethod
    def encode_prompt(
        self, prompt: str | list[str], max_sequence_length: int = TEXT_LIMIT, width: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text states `[B, T, J]`, and pooled vectors `[B, P]` where the model takes them."""

    @abstractmethod
    def _text_widths(self, texts: list[str], limit: int, multiple: int) -> list[int]:
        """Text tokens of each text, rounded up to a multiple, at most `limit`."""

    @abstractmethod
    def _latent_shape(self, stage: Stage) -> tuple[int, int, int]:
        """Channels, height and width of the latents that are denoised."""

    @abstractmethod
    def _to_vae_scale(self, latents: torch.Tensor) -> torch.Tensor:
        """Denoised latents as the autoencoder decodes them: `[B, C, H / 8, W / 8]`."""

    @abstractmethod
    def _from_vae_scale(self, means: torch.Tensor) -> torch.Tensor:
        """The inverse of `_to_vae_scale`."""

    def load_scale_dit_lora(
        self, source: Any, *, scope: LoraScope | None = None, weight_name: str | None = None, **options: Any
    ) -> None:
        """Load a Scale-DiT LoRA as adapter "scale_dit"; it acts in guided stages, on the tokens of its scope.

        Adapters that are active stay so. Take it out with `delete_adapters("scale_dit")`.

        Args:
            source: as in `load_lora_weights` (folder, file, state dict); keys
                `transformer.<module>.lora_A.weight` and `.lora_B.weight`, a missing alpha means the rank.
            scope: see `LoraRouting`. Default: what the file's metadata says, else that of released weights.
            weight_name, options: passed on to `load_lora_weights`.
        Raises:
            ValueError: an unknown scope, or an adapter of that name is already there.
        """
        routing = LoraRouting(ADAPTER, scope or stored_scope(source, weight_name) or self.default_lora_scope)
        active = self.transformer.active_adapters() if self.transformer._hf_peft_config_loaded else []
        if weight_name is not None:
            options["weight_name"] = weight_name
        self.load_lora_weights(source, adapter_name=ADAPTER, **options)
        self.transformer.set_adapter([*active, ADAPTER])
        self._lora_routing = routing

    def check_inputs(
        self,
        *,
        prompt: Any,
        negative_prompt: Any,
        prompt_embeds: torch.Tensor | None,
        pooled_prompt_embeds: torch.Tensor | None,
        guidance_scales: tuple[float, ...],
        output_type: str,
        tensor_names: list[str],
        attention_backend: str,
        high_res_strength: float,
        counts: dict[str, int],
    ) -> None:
        """Raise ValueError with what was given and what is allowed.

        Args:
            counts: `max_sequence_length`, and other numbers that are at least 1, by their names.
        """
        if not self.takes_pooled and pooled_prompt_embeds is not None:
            raise ValueError("pooled_prompt_embeds were given to a model that takes none")
        given = prompt_embeds is not None
        if (prompt is None) != given or (self.takes_pooled and given != (pooled_prompt_embeds is not None)):
            together = " together with pooled_prompt_embeds" if self.takes_pooled else ""
            raise ValueError(f"give either prompt, or prompt_embeds{together}")
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if not (text is None or isinstance(text, str) or (isinstance(text, list) and text)):
                raise ValueError(f"{name} must be a string or a list of strings, got {text!r:.80}")
        count = (
            len(prompt_embeds) if prompt_embeds is not None else 1 if isinstance(prompt, str) else len(prompt)
        )
        if isinstance(negative_prompt, list) and len(negative_prompt) != count:
            raise ValueError(f"{len(negative_prompt)} negative prompts were given for {count} prompts")
        if not math.isfinite(guidance_scales[0]):
            raise ValueError(f"guidance_scale is {guidance_scales[0]}; it must be finite")
        if negative_prompt is not None and not self._takes_two_passes(guidance_scales):
            raise ValueError("negative_prompt has no effect without classifier-free guidance")
        for name, value in counts.items():
            _check_range(name, value, 1, TEXT_LIMIT if name == "max_sequence_length" else None)
        if not 0.0 < high_res_strength <= 1.0:
            raise ValueError(f"high_res_strength is {high_res_strength}; it must lie in (0, 1]")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; it must be one of {OUTPUT_TYPES}")
        unknown = sorted(set(tensor_names) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(f"callback tensors {unknown} are not among {self._callback_tensor_inputs}")
        if attention_backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"attention_backend is {attention_backend!r}; it must be auto or one of {BACKENDS}"
            )

    def _takes_two_passes(self, guidance_scales: tuple[float, ...]) -> bool:
        """Whether some stage uses classifier-free guidance."""
        return not self.transformer.config.guidance_embeds and any(s != 1.0 for s in guidance_scales)

    def _encode_all(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        embeds: torch.Tensor | None,
        pooled: torch.Tensor | None,
        limits: tuple[int, int],
    ) -> tuple[Words, Words | None]:
        """Words of the prompts and of the negative prompts, picture by picture of the same width."""
        if prompts is None:
            assert embeds is not None  # check_inputs saw to that
            device, dtype = self._execution_device, self.transformer.dtype
            embeds = embeds.to(device, dtype)
            pooled = None if pooled is None else pooled.to(device, dtype)
            words = Words(embeds, pooled, (embeds.shape[1],) * len(embeds))
        else:
            widths = self._text_widths(prompts, *limits)
            if negatives is not None:
                others = self._text_widths(negatives, *limits)
                widths = [max(pair) for pair in zip(widths, others, strict=True)]
            words = self._encode_words(prompts, tuple(widths))
        return words, None if negatives is None else self._encode_words(negatives, words.widths)

    def _encode_words(self, texts: list[str], widths: tuple[int, ...]) -> Words:
        """Encode each text at its own width: its states must not depend on the others of the batch."""
        states: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        pooled = list(states)
        for width in sorted(set(widths)):
            rows = [row for row, own in enumerate(widths) if own == width]
            encoded, vectors = self.encode_prompt([texts[row] for row in rows], width=width)
            for at, row in enumerate(rows):
                states[row] = encoded[at]
                if vectors is not None:
                    pooled[row] = vectors[at]
        text = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        return Words(text, torch.stack(pooled) if self.takes_pooled else None, widths)

    def prepare_latents(
        self,
        batch: int,
        stage: Stage,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noise for a stage, float32, or `latents` after a check of their shape."""
        shape = (batch, *self._latent_shape(stage))
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
        guidance_scale: float | None = None,
        high_res_strength: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        image: PipelineImageInput | None = None,
        prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  (diffusers' signature)
        callback_on_tile: Callable[[int, int], bool] | None = None,
        callback_on_enlarge: Callable[[int, int], bool] | None = None,
        attention_backend: str = "auto",
        max_sequence_length: int = TEXT_LIMIT,
        high_res: HighResOptions | None = None,
        first_transformer: nn.Module | None = None,
    ) -> ImageOutput | tuple:
        """Paint.

        Args:
            prompt, negative_prompt: one text, or one per picture; the negative one is used by classifier-free
                guidance (default: empty).
            height, width: pixels, multiples of 16, at least 64. Default: the base size.
            num_inference_steps: steps of the first stage. high_res_steps: steps of each further stage.
            guidance_scale: classifier-free guidance of the first stage; 1 switches it off (FLUX.1-schnell
                needs that). A transformer with a guidance embedding is told it instead. Default:
                `default_guidance`.
            high_res_strength: noise level in (0, 1] at which a further stage starts from enlarged latents,
                after the scheduler's shift. Default: 0.5 with a Scale-DiT LoRA, else 0.35.
            num_images_per_prompt: pictures per prompt.
            generator: one, or a list with one per picture.
            latents: noise of the first stage, as `prepare_latents` makes it.
            image: pictures that stand for the first stage, which is then not painted: each is brought to its
                size, and the further stages enlarge it.
            prompt_embeds, pooled_prompt_embeds: instead of `prompt`, as `encode_prompt` returns them.
            output_type: "pil", "np", "pt" (floats in [0, 1], `[B, 3, H, W]`) or "latent" (in the
                transformer's scale and shape).
            callback_on_step_end: `(pipe, step, timestep, tensors) -> dict`; steps count over all stages.
                Tensors: "latents" and "denoised" (the present estimate of the result), both packed
                `[B, N, 4 C]` in raster order, and "prompt_embeds"; those returned are used from then on. Set
                `pipe._interrupt = True` in it to stop.
            callback_on_tile: called with (tiles done, tiles) while decoding; True stops.
            callback_on_enlarge: the same while a stage's picture is decoded and, enlarged, encoded again; the
                stage in question is `stage_index`.
            attention_backend: "auto" or a name of `kernels/local_attention`, for stages with local attention.
            max_sequence_length: text tokens at most, up to 512.
            high_res: how the stages after the first are painted. Default: `HighResOptions()`.
            first_transformer: paints the first stage instead of the pipeline's own, for instance one with an
                adapter for few steps melted in.
        Returns:
            `ImageOutput`, or a tuple of its fields. After a stop, `images` is empty.
        Raises:
            ValueError: a bad argument, with what was given and what is allowed.
        """
        # 1. check
        height = self.base_size if height is None else height
        width = self.base_size if width is None else width
        options = HighResOptions() if high_res is None else high_res
        first_scale = self.default_guidance if guidance_scale is None else guidance_scale
        if high_res_strength is None:
            high_res_strength = ADAPTED_STRENGTH if self.lora_routing else PLAIN_STRENGTH
        scales = (first_scale, 1.0 if options.guidance_scale is None else options.guidance_scale)
        self.check_inputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            guidance_scales=scales,
            output_type=output_type,
            tensor_names=callback_on_step_end_tensor_inputs,
            attention_backend=attention_backend,
            high_res_strength=high_res_strength,
            counts={
                "num_inference_steps": num_inference_steps,
                "high_res_steps": high_res_steps,
                "num_images_per_prompt": num_images_per_prompt,
                "max_sequence_length": max_sequence_length,
            },
        )
        self.stages = plan_stages(height, width, self.base_size)
        options.check_stages(self.stages)
        # 2. batch and device
        prompts = [prompt] if isinstance(prompt, str) else prompt
        count = prompt_embeds.shape[0] if prompts is None else len(prompts)  # type: ignore[union-attr]
        batch = count * num_images_per_prompt
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"{len(generator)} generators were given for {batch} pictures")
        first = None if image is None else self._read_pictures(image, batch, self.stages[0])
        noise = self.prepare_latents(batch, self.stages[0], generator, latents)
        self._interrupt = False
        self.attention_backend = "dense"
        first_steps = num_inference_steps if first is None else 0
        self._num_timesteps = first_steps + high_res_steps * (len(self.stages) - 1)
        # 3. text
        negatives = None
        if self._takes_two_passes(scales):
            negatives = (
                negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * count
            )
        limits = (max_sequence_length, options.text_multiple)
        words, negative = self._encode_all(prompts, negatives, prompt_embeds, pooled_prompt_embeds, limits)
        if len(self.stages) > 1:
            options.check_text(words.widths)

        # 4. paint
        bar = self.progress_bar(total=self._num_timesteps)
        loop = StageLoop(
            transformer=self.transformer,
            scheduler=self.scheduler,
            words=words.repeat(num_images_per_prompt),
            negative=negative and negative.repeat(num_images_per_prompt),
            guidance_scale=first_scale,
            backend=attention_backend,
            report=self._reporter(
                bar, (first_steps, high_res_steps), callback_on_step_end, callback_on_step_end_tensor_inputs
            ),
            is_stopped=lambda: self._interrupt,
            resize=lambda low, size: self._enlarge(low, size, options.enlarge, callback_on_enlarge),
            options=options,
            routing=self.lora_routing,
            patch=self.patch,
        )
        with bar:
            self.stage_index = 0
            beginning = replace(loop, transformer=first_transformer or self.transformer)
            z = beginning.paint(noise, self.stages[0], num_inference_steps) if first is None else first
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

    def _reporter(
        self,
        bar: Any,
        steps: tuple[int, int],
        callback: Callable[..., dict[str, Any]] | None,
        tensor_names: list[str],
    ) -> Report:
        """What the stages call after every step: it moves the bar and asks the caller's callback.

        Args:
            steps: of the first stage, and of each further one.
        """

        def report(
            index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            bar.update()
            if callback is None:
                return {}
            self.step_in_stage = index
            before = self.stage_index and steps[0] + steps[1] * (self.stage_index - 1)
            chosen = {name: tensors[name] for name in tensor_names}
            return callback(self, before + index, timestep, chosen) or {}

        return report

    def _read_pictures(self, image: PipelineImageInput, batch: int, stage: Stage) -> torch.Tensor:
        """Latents of `batch` pictures at the size of a stage.

        Raises:
            ValueError: neither one picture nor as many as are painted.
        """
        pictures = self.image_processor.preprocess(image, stage.height, stage.width)
        if len(pictures) not in (1, batch):
            raise ValueError(f"{len(pictures)} pictures were given as image; it must be one, or {batch}")
        means = encode_tiled(self.vae, pictures.to(self._execution_device))
        assert means is not None  # nobody stops it
        return self._from_vae_scale(means).expand(batch, -1, -1, -1)

    def _enlarge(
        self,
        low: torch.Tensor,
        size: tuple[int, int],
        mode: EnlargeMode,
        on_tile: Callable[[int, int], bool] | None,
    ) -> torch.Tensor | None:
        """Latents of a stage at the size of the next one; None when it was interrupted."""
        if mode == "latents":
            return F.interpolate(low, size=size, mode="bicubic", align_corners=False)

        small = self._to_vae_scale(low)
        scale = small.shape[-1] // low.shape[-1]  # FLUX.2 packs latents outside its transformer
        few, many = count_tiles(*small.shape[-2:]), count_tiles(*(scale * side for side in size))

        def stop(done: int) -> bool:
            if on_tile is not None and on_tile(done, few + many):
                self._interrupt = True
            return self._interrupt

        pictures = decode_tiled(self.vae, small, lambda done, _: stop(done))
        if pictures is None:
            return None
        large = enlarge_pixels(
            pictures, (size[0] * 16 // self.patch, size[1] * 16 // self.patch), mode == "sharpened"
        )
        means = encode_tiled(self.vae, large, lambda done, _: stop(few + done))
        return None if means is None else self._from_vae_scale(means)

    def _decode(self, z: torch.Tensor, output_type: str, on_tile: Callable[[int, int], bool] | None) -> Any:
        if output_type == "latent":
            return z
        pictures = decode_tiled(self.vae, self._to_vae_scale(z), on_tile)
        if pictures is None:
            self._interrupt = True
            return []
        return self.image_processor.postprocess(pictures, output_type=output_type)


def round_up(length: int, multiple: int, limit: int) -> int:
    """`length` rounded up to a multiple, at most `limit`."""
    return min(math.ceil(length / multiple) * multiple, limit)


def _check_range(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")
