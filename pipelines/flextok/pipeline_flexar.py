"""Text or a class to ordered tokens, one after another, and to the picture that any prefix of them shows."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from transformers import PreTrainedTokenizerBase, T5EncoderModel, T5Tokenizer

from pipelines.flextok.checkpoint import load_ar
from pipelines.flextok.lent_text import load_lent_text
from pipelines.flextok.licence import locate
from pipelines.flextok.outputs import FlexTokOutput
from pipelines.flextok.pipeline_flextok import FlexTokPipeline
from pipelines.flextok.token_sampling import TokenSampling
from pipelines.flextok.transformer_flexar import ARCondition, FlexARModel
from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel
from pipelines.shared_vae import SharesVae

TEXT_LIMIT = 512
GUIDANCE = {"text": 3.0, "class": 1.5}  # what the authors use
Sources: TypeAlias = "torch.Generator | Sequence[torch.Generator] | None"


class FlexARPipeline(SharesVae, DiffusionPipeline):
    """FlexAR: tokens of FlexTok from text or a class.

    There is no end token: fewer tokens are a coarser picture, so stop wherever is fine enough.

    Source: arXiv 2502.13967; guidance on logits as in arXiv 2306.05284.

    Args:
        default_steps, default_guidance: of the tokenizer's `decode`; saved with the folder.
        default_keep: tokens that are drawn where none are asked for, None for all; saved with the folder.

    Attributes:
        flextok: the tokenizer around the same parts.
    """

    model_cpu_offload_seq = "text_encoder->transformer->decoder->vae"
    _optional_components = ["text_encoder", "tokenizer"]

    def __init__(
        self,
        transformer: FlexARModel,
        vae: AutoencoderKL,
        encoder: FlexTokEncoderModel,
        decoder: FlexTokDecoderModel,
        text_encoder: T5EncoderModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        default_steps: int = 25,
        default_guidance: float = 7.5,
        default_keep: int | None = None,
    ) -> None:
        super().__init__()
        codes = decoder.quantizer.num_codes
        if transformer.config.vocab_size != codes:
            raise ValueError(f"the model has {transformer.config.vocab_size} ids, its tokenizer {codes}")
        if transformer.config.num_tokens > decoder.config.num_registers:
            raise ValueError(
                f"the model makes {transformer.config.num_tokens} tokens, "
                f"its tokenizer reads {decoder.config.num_registers}"
            )
        width = transformer.config.text_dim if transformer.config.condition == "text" else None
        if text_encoder is not None and text_encoder.config.d_model != width:
            raise ValueError(
                f"the text encoder is {text_encoder.config.d_model} wide, "
                + (f"the model reads {width}" if width else "but the model is told classes")
            )
        if default_keep is not None:
            _check_count("default_keep", default_keep, transformer.config.num_tokens)
        self.register_modules(
            transformer=transformer,
            vae=vae,
            encoder=encoder,
            decoder=decoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self.register_to_config(
            default_steps=default_steps, default_guidance=default_guidance, default_keep=default_keep
        )

    @classmethod
    def from_pretrained(cls, name: str | Path, *, accept_licence: bool = False, **options: Any) -> Any:
        """Load a folder in diffusers layout, a published FlexAR folder or file, or a model of the hub.

        Args:
            accept_licence: agree to the licences of hub models; without it nothing is downloaded and the
                error's message is the notice.
            options: as diffusers' method; for published files those of `from_published`.
        Raises:
            LicenceNotAccepted: see above. ValueError, OSError: damaged or foreign files.
        """
        path = locate(name, accept_licence, options)
        if path.is_dir() and (path / "model_index.json").is_file():
            if "text_encoder" not in options:  # None asks for a generator without one
                lent = load_lent_text(path, options.get("dtype", options.get("torch_dtype")))
                options = {**lent, **options}
            return super().from_pretrained(str(path), **{**options, "use_safetensors": True})
        return cls.from_published(path, accept_licence=accept_licence, **options)

    @classmethod
    def from_published(
        cls,
        path: str | Path,
        flextok: Any = None,
        text: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        num_heads: int | None = None,
        accept_licence: bool = False,
    ) -> "FlexARPipeline":
        """Put a published generator together with the parts it was trained with.

        Args:
            path: folder with `model.safetensors`, or that file. Nothing in its `config.yaml` is needed.
            flextok: a `FlexTokPipeline`, or the path or name that its `from_pretrained` opens.
            text: for models told by texts, a folder or hub model with a T5 encoder and its tokenizer.
            dtype: of what is loaded here. num_heads: Default: heads of 64.
        Raises:
            ValueError: a part is not given, or the parts don't belong together.
            LicenceNotAccepted, OSError: as `from_pretrained`.
        """
        if flextok is None:
            raise ValueError(
                f"{path} holds a generator alone: give flextok=, the tokenizer it was trained with "
                "(for published ones EPFL-VILAB/flextok_d18_d28_dfn)"
            )
        transformer = load_ar(path, dtype, num_heads)
        parts = {}
        if transformer.config.condition == "text":
            if text is None:
                raise ValueError(
                    f"{path} is told what to make by texts: give text=, the T5 encoder it was trained with "
                    "(for published ones google/flan-t5-xl)"
                )
            folder = locate(text, accept_licence, {})
            encoder = T5EncoderModel.from_pretrained(folder, dtype=dtype, use_safetensors=True)
            parts = {"text_encoder": encoder.eval(), "tokenizer": T5Tokenizer.from_pretrained(folder)}
        if not isinstance(flextok, FlexTokPipeline):
            flextok = FlexTokPipeline.from_pretrained(flextok, accept_licence=accept_licence, dtype=dtype)
        config = flextok.config
        return cls(
            transformer, flextok.vae, flextok.encoder, flextok.decoder, **parts,
            default_steps=config.default_steps, default_guidance=config.default_guidance,
        )  # fmt: skip

    @property
    def flextok(self) -> FlexTokPipeline:
        config = self.config
        pipeline = FlexTokPipeline(
            self.vae, self.encoder, self.decoder, config.default_steps, config.default_guidance
        )
        pipeline.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipeline

    @property
    def num_tokens(self) -> int:
        """Longest sequence that is generated."""
        return self.transformer.config.num_tokens

    def tokens_wanted(self, keep: int | None = None, given: int = 0) -> int:
        """Length of a sequence that `given` tokens begin: `keep`, or the folder's own number, or all.

        Raises:
            ValueError: `keep` is not an integer from 1 to `num_tokens`.
        """
        if keep is not None:
            return _check_count("keep", keep, self.num_tokens)
        own = self.config.default_keep or self.num_tokens
        return own if given < own else self.num_tokens

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> ARCondition:
        """What the model is told by texts; padding is masked, so a text's meaning is its own.

        Raises:
            ValueError: the model has no text encoder.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("this model has no text encoder; give class_labels")
        limit = min(self.tokenizer.model_max_length, TEXT_LIMIT)
        batch = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self._execution_device)
        states = self.text_encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        return self.transformer.text_condition(states.last_hidden_state, batch.attention_mask)

    def _condition(
        self, prompts: Sequence[str] | None, classes: Sequence[int] | None, is_guided: bool
    ) -> ARCondition:
        """Condition of all rows, then, with guidance, as many null rows."""
        if (prompts is None) == (classes is None):
            raise ValueError("give either prompt or class_labels")
        if prompts is not None:
            return self.encode_prompt([*prompts, *[""] * (len(prompts) * is_guided)])
        assert classes is not None  # one of the two
        return self.transformer.class_condition([*classes, *[None] * (len(classes) * is_guided)])

    @torch.no_grad()
    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        keep: int | None = None,
        sampling: TokenSampling | None = None,
        prefix: Any = None,
        generator: Sources = None,
        use_cache: bool = True,
    ) -> Iterator[torch.Tensor]:
        """Tokens as they come: ids `[B, n]` int64 for n = (length of the prefix) + 1 to `keep`.

        Args:
            prompt: one text or one per picture; or class_labels: one id or one per picture.
            keep: number of tokens, 1 to `num_tokens`. Default: `default_keep`, or all where a prefix has as
                many already.
            sampling: guidance, temperature, filters. Default: guidance of the authors, no filters.
            prefix: ids `[B, n]` or `[n]` to go on from, for instance a picture's first tokens.
            generator: one for all pictures, or a list with one per picture.
            use_cache: keep keys and values of the tokens so far (exact, and far faster).
        Raises:
            ValueError: a bad argument, with what was given and what is allowed.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        classes = [class_labels] if isinstance(class_labels, int) else class_labels
        rows = len(prompts if prompts is not None else classes or [])
        if rows == 0:
            raise ValueError("give at least one prompt or class label")
        first = self._checked_prefix(prefix, rows)
        total = self.tokens_wanted(keep, first.shape[1])
        if first.shape[1] >= total:
            raise ValueError(f"prefix has {first.shape[1]} tokens; allowed: 0 to {total - 1}")
        sampling = sampling or TokenSampling(GUIDANCE[self.transformer.config.condition])
        generators = _one_each(generator, rows)
        ids = first.to(self._execution_device)
        condition = self._condition(prompts, classes, sampling.is_guided)
        copies = 2 if sampling.is_guided else 1
        cache = self.transformer.new_cache(copies * rows) if use_cache else None
        while ids.shape[1] < total:
            seen = ids if cache is None or cache.length == 0 else ids[:, -1:]
            logits = self.transformer(seen.repeat(copies, 1), condition, cache, last_only=use_cache)[:, -1]
            conditional, null = logits.chunk(2) if sampling.is_guided else (logits, None)
            ids = torch.cat([ids, sampling.draw(conditional, null, generators)[:, None]], dim=1)
            yield ids

    def _checked_prefix(self, prefix: Any, rows: int) -> torch.Tensor:
        if prefix is None or (isinstance(prefix, list | tuple) and not prefix):
            return torch.zeros(rows, 0, dtype=torch.long)
        ids = torch.as_tensor(prefix)
        ids = ids.expand(rows, -1) if ids.ndim == 1 else ids
        if ids.ndim != 2 or len(ids) != rows or ids.is_floating_point():
            raise ValueError(f"prefix is {list(ids.shape)} {ids.dtype}; expected integers [n] or [{rows}, n]")
        self.decoder.quantizer.codes(ids)  # refuses ids out of range
        return ids.long()

    def generate(
        self, *arguments: Any, on_token: Callable[[torch.Tensor], bool] | None = None, **options: Any
    ) -> Any:
        """Tokens of pictures, `[B, keep]` int64 on the CPU; arguments as for `stream`.

        Args:
            on_token: called with the ids `[B, n]` after each token; True stops there.
        """
        ids = None
        for ids in self.stream(*arguments, **options):
            if on_token is not None and on_token(ids):
                break
        assert ids is not None  # at least one token is made
        return ids.cpu()

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        keep: int | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        generator: Sources = None,
        output_type: str = "pil",
        decode_options: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Make pictures.

        Args:
            prompt, class_labels, keep: see `stream`.
            num_images_per_prompt: pictures per prompt or class, drawn apart from the first token on.
            guidance_scale: Default: 3 for texts, 1.5 for classes; 1 switches guidance off.
            temperature, top_k, top_p: see `TokenSampling`.
            generator: for the tokens and then for the decoder's noise; one, or one per picture.
            output_type: as for `FlexTokPipeline.decode`, or "tokens" for none.
            decode_options: further arguments of `FlexTokPipeline.decode`.
        Returns:
            `FlexTokOutput`, or a tuple of its fields.
        """
        if type(num_images_per_prompt) is not int or num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt is {num_images_per_prompt!r}; it must be at least 1")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        classes = [class_labels] if isinstance(class_labels, int) else class_labels
        repeated = (
            None if given is None else [item for item in given for _ in range(num_images_per_prompt)]
            for given in (prompts, classes)
        )
        default = GUIDANCE[self.transformer.config.condition]
        sampling = TokenSampling(
            default if guidance_scale is None else guidance_scale, temperature, top_k, top_p
        )
        ids = self.generate(*repeated, keep=keep, sampling=sampling, generator=generator)
        tokens, images = list(ids), []
        if output_type != "tokens":
            images = self.flextok.decode(
                tokens, generator=generator, output_type=output_type, **(decode_options or {})
            )
        self.maybe_free_model_hooks()
        return FlexTokOutput(images, tokens) if return_dict else (images, tokens)


def _check_count(name: str, count: Any, most: int) -> int:
    """The count, if it is one of 1 to `most` tokens."""
    if type(count) is not int or not 1 <= count <= most:
        raise ValueError(f"{name} is {count!r}; allowed: 1 to {most} tokens")
    return count


def _one_each(generator: Sources, rows: int) -> list[torch.Generator | None]:
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * rows
    if len(generator) != rows:
        raise ValueError(f"{len(generator)} generators were given for {rows} pictures")
    return list(generator)
