"""Pictures to ordered tokens and back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from pipelines.flextok.checkpoint import load_tokenizer
from pipelines.flextok.flow_sampler import FlowOptions, FlowSampler, VelocityField, draw_noise
from pipelines.flextok.framing import check_picture, to_square
from pipelines.flextok.licence import locate
from pipelines.flextok.outputs import FlexTokOutput
from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel
from pipelines.shared_vae import SharesVae

GENERATOR_ENTRIES = ("transformer", "text_encoder", "tokenizer", "default_keep")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
StepCallback = Callable[[Any, int, float, dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]


class FlexTokPipeline(SharesVae, DiffusionPipeline):
    """FlexTok: a picture as up to 256 tokens, of which every prefix is a picture.

    Source: arXiv 2502.13967.

    Args:
        default_steps, default_guidance: of `decode`; saved with the folder.

    Attributes:
        side: pixels of the square that the model reads and makes.
        num_tokens: longest token sequence. levels: of the quantiser.
    """

    model_cpu_offload_seq = "encoder->decoder->vae"
    _callback_tensor_inputs = ["latents", "denoised"]

    def __init__(
        self,
        vae: AutoencoderKL,
        encoder: FlexTokEncoderModel,
        decoder: FlexTokDecoderModel,
        default_steps: int = 25,
        default_guidance: float = 7.5,
    ) -> None:
        super().__init__()
        for name in ("levels", "num_registers", "in_channels"):
            values = [_as_tuple(getattr(model.config, name)) for model in (encoder, decoder)]
            if values[0] != values[1]:
                raise ValueError(
                    f"encoder and decoder don't belong together: {name} {values[0]}, {values[1]}"
                )
        self.register_modules(vae=vae, encoder=encoder, decoder=decoder)
        self.register_to_config(default_steps=default_steps, default_guidance=default_guidance)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self._shrink)
        self._interrupt = False

    @classmethod
    def load_config(cls, *arguments: Any, **options: Any) -> Any:
        """As diffusers' method, without what a generator in the same folder adds to the index."""
        config = super().load_config(*arguments, **options)
        if isinstance(config, dict):
            config = {name: value for name, value in config.items() if name not in GENERATOR_ENTRIES}
        return config

    @classmethod
    def from_pretrained(cls, name: str | Path, *, accept_licence: bool = False, **options: Any) -> Any:
        """Load a folder in diffusers layout, a published folder or file, or a model of the hub.

        Args:
            accept_licence: agree to the licence of a hub model; without it nothing is downloaded and the
                error's message is the notice.
            options: as diffusers' method; for published files `dtype` and `vae_config`.
        Raises:
            LicenceNotAccepted: see above. ValueError, OSError: damaged or foreign files.
        """
        path = locate(name, accept_licence, options)
        if path.is_dir() and (path / "model_index.json").is_file():
            return super().from_pretrained(str(path), **{**options, "use_safetensors": True})
        return cls.from_single_file(path, **options)

    @classmethod
    def from_single_file(
        cls, path: str | Path, dtype: torch.dtype = torch.float32, vae_config: Any = None
    ) -> "FlexTokPipeline":
        """Load a published safetensors file with its config in the metadata, or a published folder."""
        models, _ = load_tokenizer(path, dtype, vae_config)
        return cls(**models)

    @property
    def _shrink(self) -> int:
        """Pixels per latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def side(self) -> int:
        config = self.encoder.config
        return config.grid[0] * config.patch_size[0] * self._shrink

    @property
    def num_tokens(self) -> int:
        return self.encoder.config.num_registers

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(self.encoder.config.levels)

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    # pictures to tokens

    def pixels(self, images: Any, fit: str = "letterbox") -> torch.Tensor:
        """`[B, 3, side, side]` in [-1, 1] of PIL images of any size, or of such a tensor in [0, 1].

        Raises:
            ValueError: too large or narrow a picture, or a tensor of another shape or range.
        """
        if isinstance(images, torch.Tensor):
            fits = images.ndim == 4 and tuple(images.shape[1:]) == (3, self.side, self.side)
            if not fits or not images.is_floating_point():
                raise ValueError(
                    f"pictures are {list(images.shape)} {images.dtype}; "
                    f"expected floats [B, 3, {self.side}, {self.side}]"
                )
            low, high = float(images.min()), float(images.max())
            if not 0.0 <= low <= high <= 1.0:
                raise ValueError(f"pictures range from {low:g} to {high:g}; allowed: 0 to 1")
            return images.to(self._execution_device) * 2 - 1
        pictures = [images] if isinstance(images, Image.Image) else list(images)
        if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
            raise ValueError("give a PIL image, a list of them, or a tensor")
        for picture in pictures:
            check_picture(picture)
        squares = [to_square(picture, self.side, fit) for picture in pictures]
        return self.image_processor.preprocess(squares).to(self._execution_device)

    @torch.no_grad()
    def encode_latents(
        self,
        pixels: torch.Tensor,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Scaled latents `[B, C, h, w]` float32 of pixels `[B, 3, H, W]` in [-1, 1].

        Args:
            sample_posterior: draw from the autoencoder's posterior, as the authors' code does, instead of
                taking its mode. Token ids are random then.
        """
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        return (latents.float() - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def tokenize(self, latents: torch.Tensor, keep: int | None = None, truncate: bool = True) -> torch.Tensor:
        """Token ids `[B, keep]` int64 of scaled latents; `truncate` as in the encoder's forward."""
        return self.encoder.quantizer.quantize(self.encoder(latents, keep, truncate))[1]

    def encode(
        self,
        images: Any,
        keep: int | None = None,
        fit: str = "letterbox",
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
    ) -> list[torch.Tensor]:
        """Tokens of pictures.

        Args:
            images: PIL image or list of them, any size; or `[B, 3, side, side]` in [0, 1].
            keep: number of tokens, 1 to `num_tokens`. Default: all. Fewer are the same ones, and faster.
            fit: how other shapes get into the square, "letterbox" or "crop".
            sample_posterior, generator: see `encode_latents`.
        Returns:
            One LongTensor `[keep]` per picture, on the CPU.
        Raises:
            ValueError: a bad picture or count.
        """
        latents = self.encode_latents(self.pixels(images, fit), sample_posterior, generator)
        ids = list(self.tokenize(latents, keep).cpu())
        self.maybe_free_model_hooks()
        return ids

    # tokens to pictures

    def check_tokens(self, tokens: Any, keep: int | Sequence[int] | None) -> tuple[torch.Tensor, list[int]]:
        """Ids `[B, K]` int64, padded at the end, and how many of each row count.

        Raises:
            ValueError: empty or too long sequences, ids out of range, other counts than pictures.
        """
        rows = [torch.as_tensor(row).reshape(-1) for row in tokens]
        lengths = [len(row) for row in rows]
        if not rows or not all(1 <= n <= self.num_tokens for n in lengths):
            raise ValueError(f"token sequences of {lengths} ids; allowed: 1 to {self.num_tokens} per picture")
        if any(row.is_floating_point() or row.dtype == torch.bool for row in rows):
            raise ValueError("token ids must be integers")
        wanted = [keep] * len(rows) if keep is None or isinstance(keep, int) else list(keep)
        counts = [n if k is None else k for k, n in zip(wanted, lengths, strict=False)]
        if len(wanted) != len(rows) or any(not 1 <= k <= n for k, n in zip(counts, lengths, strict=True)):
            raise ValueError(
                f"keep is {keep}; sequences have {lengths} tokens, of which 1 to all can be kept"
            )
        padded = torch.nn.utils.rnn.pad_sequence([row.long() for row in rows], batch_first=True)
        self.decoder.quantizer.codes(padded)  # refuses ids out of range
        return padded, counts

    def flow_options(
        self, steps: int | None = None, guidance_scale: Any = None, **options: Any
    ) -> FlowOptions:
        """Options with this model's own number of steps and guidance where none are given."""
        return FlowOptions(
            self.config.default_steps if steps is None else steps,
            self.config.default_guidance if guidance_scale is None else guidance_scale,
            **options,
        )

    @torch.no_grad()
    def sample_latents(
        self,
        tokens: Any,
        keep: int | Sequence[int] | None = None,
        options: FlowOptions | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> torch.Tensor:
        """Scaled latents `[B, C, h, w]` float32 of tokens; see `decode`."""
        options = options or self.flow_options()
        ids, counts = self.check_tokens(tokens, keep)
        config, device = self.decoder.config, self._execution_device
        height, width = (n * p for n, p in zip(config.grid, config.patch_size, strict=True))
        shape = (len(ids), config.in_channels, height, width)
        if latents is None:
            x = draw_noise(shape, generator, device)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents are {list(latents.shape)}; expected {list(shape)}")
        else:
            x = latents.to(device, torch.float32)
        codes = self.decoder.quantizer.codes(ids.to(device))
        sampler = FlowSampler(VelocityField(self.decoder, codes, counts, options))
        self._interrupt = False
        with self.progress_bar(total=options.steps) as bar:
            for index in range(options.steps):
                x, denoised = sampler.step(x, index)
                bar.update()
                if callback_on_step_end is not None:
                    t = sampler.field.times[index]
                    changed = callback_on_step_end(self, index, t, {"latents": x, "denoised": denoised}) or {}
                    x = changed.get("latents", x)
                if self._interrupt:
                    break
        return x

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels `[B, 3, H, W]` float32, about [-1, 1], of scaled latents."""
        raw = latents / self.vae.config.scaling_factor + self._shift
        return self.vae.decode(raw.to(self.vae.dtype)).sample.float()

    def decode(
        self,
        tokens: Any,
        keep: int | Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: Any = None,
        norm_guidance: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        **options: Any,
    ) -> Any:
        """Pictures of tokens, squares of `side` pixels.

        Args:
            tokens: ids of each picture, `[k]` tensors or lists; lengths may differ.
            keep: use only so many tokens, one number or one per picture. Default: all that are given.
            num_inference_steps, guidance_scale, norm_guidance: see `FlowOptions`. Default: the model's own.
            generator: one (noise is drawn picture by picture), or a list with one per picture.
            latents: noise `[B, C, h, w]` instead.
            output_type: "pil", "np", "pt" (floats in [0, 1]) or "latent".
            callback_on_step_end: `(pipe, step, time, tensors) -> dict`; tensors "latents" and "denoised" (the
                present estimate). Returned latents are used from then on; `pipe._interrupt = True` stops.
            options: further fields of `FlowOptions`.
        Returns:
            Pictures by `output_type`; an empty list after a stop.
        Raises:
            ValueError: a bad argument, with what was given and what is allowed.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; it must be one of {OUTPUT_TYPES}")
        flow = self.flow_options(num_inference_steps, guidance_scale, norm_guidance=norm_guidance, **options)
        x = self.sample_latents(tokens, keep, flow, generator, latents, callback_on_step_end)
        if self._interrupt:
            return []
        images = x if output_type == "latent" else self.postprocess(x, output_type)
        self.maybe_free_model_hooks()
        return images

    def postprocess(self, latents: torch.Tensor, output_type: str = "pil") -> Any:
        """Pictures of scaled latents."""
        pixels = self.decode_latents(latents).clamp(-1, 1)
        return self.image_processor.postprocess(pixels, output_type=output_type)

    def decode_stops(
        self,
        tokens: torch.Tensor,
        stops: Sequence[int],
        seed: int = 0,
        options: FlowOptions | None = None,
        batch: int = 4,
        callback_on_step_end: StepCallback | None = None,
    ) -> Iterator[tuple[int, Image.Image]]:
        """One picture's prefixes from the coarsest to the finest, all from the same noise.

        Several prefixes go through the decoder as one batch; what comes out first can be shown first.

        Args:
            tokens: ids `[k]`. stops: token counts.
            seed: of the noise. batch: prefixes at a time.
        Yields:
            (count, picture).
        """
        ordered = sorted(set(stops))
        for first in range(0, len(ordered), batch):
            part = ordered[first : first + batch]
            generators = [torch.Generator().manual_seed(seed) for _ in part]
            rows = [tokens] * len(part)
            latents = self.sample_latents(
                rows, part, options, generators, callback_on_step_end=callback_on_step_end
            )
            if self._interrupt:
                return
            yield from zip(part, self.postprocess(latents), strict=True)

    def __call__(
        self,
        image: Any,
        keep: int | None = None,
        fit: str = "letterbox",
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Encode and decode: what `keep` tokens say of a picture. `options` as for `decode`."""
        tokens = self.encode(image, keep, fit)
        images = self.decode(tokens, **options)
        return FlexTokOutput(images, tokens) if return_dict else (images, tokens)

    def use_steps(self, steps: int) -> None:
        """Prepare for one number of steps and give back the half of the decoder that computes times."""
        self.decoder.fix_times(replace(FlowOptions(), steps=steps).times)

    @property
    def _shift(self) -> float:
        return self.vae.config.shift_factor or 0.0


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
