"""Text to picture with weights that know where things are: diffusers' own pipelines, with TENOR looked after.

`CompassPipeline` opens a FLUX-type or a Stable Diffusion folder; the pipeline that comes back is a stock one
whose calls check that TENOR and the weights go together, and that can put a prompt into the words of the
training.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusionPipeline

from pipelines.compass.parser import parse_prompt
from pipelines.compass.prompt_text import FORMS, to_prompt
from pipelines.compass.schedule import (
    REFERENCE_GUIDANCE,
    REFERENCE_SEED,
    REFERENCE_SIDE_PX,
    REFERENCE_STEPS,
    REFERENCE_TRUE_CFG,
    flux_schedule,
    reference_tokens,
)
from pipelines.compass.sidecar import ADAPTER_FOLDERS, own_weights, write_sidecar
from pipelines.compass.support import (
    adapter_scales,
    check_tenor,
    denoiser_of,
    disable_tenor,
    enable_tenor,
    has_tenor,
    tenor_support,
    weights_sidecar,
)
from pipelines.compass.tenor import TenorHandle
from pipelines.compass.weights_compass import ADAPTER, load_compass
from pipelines.storybook.guidance import FLUX_GUIDANCE

TEXT_MULTIPLE = 8
TEXT_LIMIT = 512


def _like(stock: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Show the stock call's parameters beside our own ones in the signature of a call that passes them on."""

    def dress(call: Callable[..., Any]) -> Callable[..., Any]:
        known = inspect.signature(stock).parameters
        own = [p for p in inspect.signature(call).parameters.values() if p.kind is p.KEYWORD_ONLY]
        kept = [
            p for p in known.values() if p.kind is not p.VAR_KEYWORD and p.name not in {o.name for o in own}
        ]
        call.__signature__ = inspect.Signature([*kept, *own])  # type: ignore[attr-defined]
        return call

    return dress


class CompassPipeline:
    """What both kinds share; open either of them with `CompassPipeline.from_pretrained(folder)`.

    Source: arXiv 2412.13195.
    """

    _tenor_choice: bool | None = None  # the person's own; None: as the weights were trained

    def __new__(cls, *args: Any, **components: Any) -> Any:
        if cls is CompassPipeline:
            cls = CompassFluxPipeline if "transformer" in components else CompassStableDiffusionPipeline
        return object.__new__(cls)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, compass: str | Path | None = "auto", **options: Any
    ) -> Any:
        """Open a folder in diffusers' layout, with the CoMPaSS weights that belong to it.

        Args:
            folder: a `FluxPipeline` or `StableDiffusionPipeline` folder, or a repository id for which `cls`
                is one of the two kinds.
            compass: "auto": the adapter or UNet in the folder's `compass-lora` or `compass`, or the folder's
                own sidecar; a path or the authors' repository id: these weights; None: the plain base.
            options: as of diffusers (`dtype`, `variant`, ...).
        Raises:
            ValueError: no such folder, or weights that don't fit.
        """
        if cls is CompassPipeline:
            return _kind_of(folder).from_pretrained(folder, compass=compass, **options)
        pipeline = super().from_pretrained(folder, **options)  # type: ignore[misc]
        if compass == "auto":
            compass = own_weights(folder)
            own = weights_sidecar(pipeline)
            if compass is None and own is not None and own.tenor:
                pipeline.enable_tenor()
        if compass is not None:
            load_compass(pipeline, compass)
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: Any, **options: Any) -> Any:
        """The same components (shared, with their adapters and TENOR) under this class."""
        if cls is CompassPipeline:
            kind = CompassFluxPipeline if hasattr(pipeline, "transformer") else CompassStableDiffusionPipeline
            return kind.from_pipe(pipeline, **options)
        options.setdefault("dtype", pipeline.dtype)
        return super().from_pipe(pipeline, **options)  # type: ignore[misc]

    def save_pretrained(self: Any, save_directory: str | Path, **options: Any) -> None:
        """Save a folder that `from_pretrained` opens with the same weights and TENOR.

        A CoMPaSS adapter goes into `compass-lora`.

        Raises:
            ValueError: other adapters are loaded; fuse or unload them first.
        """
        model, folder = denoiser_of(self), Path(save_directory)
        support, scales = tenor_support(self), adapter_scales(model)
        if set(scales) - {ADAPTER}:
            raise ValueError(
                f"adapters {sorted(scales)} are loaded; only {ADAPTER!r} can be saved with the rest"
            )
        if not scales:
            super().save_pretrained(folder, **options)  # type: ignore[misc]
            if (own := weights_sidecar(self)) is not None:
                write_sidecar(folder, own)
            return
        place = folder / ADAPTER_FOLDERS[0]
        place.mkdir(parents=True, exist_ok=True)
        self._save_adapter(place)
        sidecar = support.sidecar
        model.unload_lora()  # the base is saved without it
        try:
            super().save_pretrained(folder, **options)  # type: ignore[misc]
        finally:
            if sidecar is not None:
                write_sidecar(place, sidecar)
            load_compass(self, place, scale=scales[ADAPTER] or 1.0, tenor=sidecar.tenor if sidecar else False)

    def _save_adapter(self: Any, place: Path) -> None:
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(denoiser_of(self), adapter_name=ADAPTER)
        part = "transformer" if hasattr(self, "transformer") else "unet"
        self.save_lora_weights(place, **{f"{part}_lora_layers": state})

    @property
    def has_tenor(self) -> bool:
        """Whether text tokens know their positions now."""
        return has_tenor(self)

    def enable_tenor(self, position_mode: str | None = None, on_mismatch: str = "refuse") -> TenorHandle:
        """See `support.enable_tenor`."""
        handle = enable_tenor(self, position_mode, on_mismatch)
        self._tenor_choice = None if on_mismatch == "refuse" else True
        return handle

    def disable_tenor(self) -> None:
        """Take TENOR out, also for weights that were trained with it."""
        disable_tenor(self)
        self._tenor_choice = False

    def _prepare(self, prompt: Any, rewrite: str | None) -> Any:
        """Check TENOR and put prompts into the words of the training."""
        check_tenor(self, self._tenor_choice)
        if rewrite is None or prompt is None:
            return prompt
        if rewrite not in FORMS:
            raise ValueError(f"rewrite is {rewrite!r}; it must be None or one of {FORMS}")
        if isinstance(prompt, str):
            return to_prompt(parse_prompt(prompt), rewrite)
        return [to_prompt(parse_prompt(text), rewrite) for text in prompt]


class CompassFluxPipeline(CompassPipeline, FluxPipeline):
    """`FluxPipeline` with TENOR looked after, real guidance by default, the authors' sampler as a preset."""

    scheduler: Any

    @property
    def base_size(self) -> int:
        """Side in pixels of the square that the model was made for."""
        tokens = self.scheduler.config.get("max_image_seq_len", 4096)
        return round(math.sqrt(tokens)) * self.vae_scale_factor * 2

    @_like(FluxPipeline.__call__)
    def __call__(
        self,
        prompt: Any = None,
        *args: Any,
        rewrite: str | None = None,
        reference: bool = False,
        **options: Any,
    ) -> Any:
        """Paint.

        Args:
            prompt, options: as of diffusers' `FluxPipeline`, with other defaults: `height` and `width` are
                the model's base size; a model without guidance embedding gets `true_cfg_scale` 5 with an
                empty negative prompt, and texts padded to a multiple of 8 instead of 512 tokens.
            rewrite: None, or a form of `prompt_text.to_prompt` to put the prompt into.
            reference: sample as the authors do: 512 px, 50 steps, guidance 4 and true guidance 3 from the
                first step on, their seed, and their shift of the times; given options still win.
        Returns:
            As of diffusers.
        Raises:
            ValueError: TENOR and the weights don't go together; or a bad argument.
        """
        prompt = self._prepare(prompt, rewrite)
        names = list(inspect.signature(FluxPipeline.__call__).parameters)[2:]
        options = dict(zip(names, args, strict=False)) | options
        if reference:
            given = {name: value for name, value in options.items() if value is not None}
            options = self._reference_options(given) | given
        if not self.transformer.config.guidance_embeds:
            options.setdefault("true_cfg_scale", FLUX_GUIDANCE)
        has_negative = any(options.get(f"negative_prompt{end}") is not None for end in ("", "_embeds"))
        if options.get("true_cfg_scale", 1.0) > 1 and not has_negative:
            options["negative_prompt"] = "" if not isinstance(prompt, list) else [""] * len(prompt)
        if not self.transformer.config.guidance_embeds and prompt is not None:
            options.setdefault(
                "max_sequence_length", self.text_length(prompt, options.get("negative_prompt"))
            )
        for side in ("height", "width"):
            options[side] = options.get(side) or self.base_size
        with self._reference_scheduler(reference):
            return super().__call__(prompt, **options)

    def text_length(self, prompt: Any, negative: Any = None) -> int:
        """Tokens of the longest of these texts, rounded up to a multiple of 8, at most 512."""
        texts = [text for part in (prompt, negative) if part is not None for text in _as_list(part)]
        ids = self.tokenizer_2(texts, truncation=True, max_length=TEXT_LIMIT).input_ids
        return min(math.ceil(max(map(len, ids)) / TEXT_MULTIPLE) * TEXT_MULTIPLE, TEXT_LIMIT)

    def _reference_options(self, options: dict[str, Any]) -> dict[str, Any]:
        height, width = ((options.get(side) or REFERENCE_SIDE_PX) // 16 * 16 for side in ("height", "width"))
        steps = options.get("num_inference_steps", REFERENCE_STEPS)
        chosen = {
            "num_inference_steps": steps,
            "sigmas": flux_schedule(steps, reference_tokens(height, width))[:-1],
            "guidance_scale": REFERENCE_GUIDANCE,
            "true_cfg_scale": REFERENCE_TRUE_CFG,
        }
        options.update(height=height, width=width)
        if options.get("latents") is None:
            chosen["generator"] = torch.Generator().manual_seed(REFERENCE_SEED)
        return chosen

    @contextmanager
    def _reference_scheduler(self, reference: bool) -> Iterator[None]:
        """The reference times are shifted already: the scheduler must not do it again."""
        kept = self.scheduler
        if reference:
            self.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
        try:
            yield
        finally:
            self.scheduler = kept


class CompassStableDiffusionPipeline(CompassPipeline, StableDiffusionPipeline):
    """`StableDiffusionPipeline` with TENOR looked after; the authors sample with its defaults."""

    @_like(StableDiffusionPipeline.__call__)
    def __call__(self, prompt: Any = None, *args: Any, rewrite: str | None = None, **options: Any) -> Any:
        """Paint.

        Args:
            prompt, options: as of diffusers' `StableDiffusionPipeline`.
            rewrite: None, or a form of `prompt_text.to_prompt` to put the prompt into.
        Raises:
            ValueError: TENOR and the weights don't go together; or a bad argument.
        """
        return super().__call__(self._prepare(prompt, rewrite), *args, **options)


def _as_list(texts: Any) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _kind_of(folder: str | Path) -> Any:
    """The class that runs a folder, by the parts it lists."""
    index = Path(folder) / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"not a pipeline folder: {index} cannot be read ({error})") from None
    if "transformer" in parts and "tokenizer_2" in parts:
        return CompassFluxPipeline
    if "unet" in parts:
        return CompassStableDiffusionPipeline
    raise ValueError(f"{folder} holds neither a FLUX-type transformer nor a UNet")
