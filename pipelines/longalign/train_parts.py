"""What the recipes share: frozen models of a folder, the parts that learn, conditioning, sheets."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from pipelines.longalign.conditioning import clip_window
from pipelines.longalign.lora import lora_config, merge_lora
from pipelines.longalign.parts import LongAlignParts, read_lora
from pipelines.longalign.pipeline_longalign import LongAlignPipeline
from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.segment_conditioning import SegmentConditioning
from pipelines.longalign.text_adapter import TextAdapter
from pipelines.longalign.text_encoders import CachedTextEncoder
from pipelines.longalign.tokens import TokenReader
from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.storybook.latents import load_autoencoder
from pipelines.training.group_norm import use_quick_group_norm
from pipelines.training.loop import runtime_device

LORA_RANK = 8
SHEET_PAGES = 6
SHEET_STEPS = 20


@dataclass(frozen=True)
class Sources:
    """Folders that a recipe builds on.

    Attributes:
        model: a Stable Diffusion folder (`storybook-sd`).
        t5: a folder with `text_encoder_2` and `tokenizer_2`; None trains without the T5 branch.
        longalign: a LongAlign folder with the stages before this one, and the adapter.
    """

    model: Path
    t5: Path | None = None
    longalign: Path | None = None


class LearnedParts(nn.Module):
    """A U-Net with one trainable LoRA, and the adapter; its state dict holds what learns and nothing else.

    Args:
        unet: frozen here, stages before already merged.
        name: of the LoRA. adapter: None without T5. dropout: of the LoRA's branch.
    """

    def __init__(
        self, unet: nn.Module, name: str, adapter: TextAdapter | None, train_adapter: bool, dropout: float
    ) -> None:
        super().__init__()
        self.name = name
        self.unet = unet.requires_grad_(False)
        unet.add_adapter(lora_config(unet, LORA_RANK, dropout), adapter_name=name)
        self.adapter = None if adapter is None else adapter.requires_grad_(train_adapter)

    def _learned(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Tensor]:
        """Tensors that learn, by parameter name."""
        return {name: value.detach() for name, value in self._learned().items()}

    def load_state_dict(self, state: Mapping[str, Tensor], *args: Any, **options: Any) -> None:
        """Set them all, by parameter name or as they are published; the adapter may be left out.

        Raises:
            ValueError: a tensor is missing, or one has no place here.
        """
        state = {self._own_name(name): value for name, value in state.items()}
        learned = self._learned()
        missing = [name for name in learned if name not in state and not name.startswith("adapter.")]
        foreign = [name for name in state if name not in learned]
        if missing or foreign:
            raise ValueError(
                f"{len(missing)} tensors are missing, {len(foreign)} have no place: {foreign[:3]}"
            )
        with torch.no_grad():
            for name, value in state.items():
                learned[name].copy_(value)

    def _own_name(self, name: str) -> str:
        if name.startswith(("unet.", "adapter.")):
            return name
        stem, _, kind = name.rpartition(".")  # "...lora_A.weight" is "...lora_A.<adapter>.weight" in peft
        return f"unet.{stem}.{self.name}.{kind}"

    @contextlib.contextmanager
    def as_before(self) -> Iterator[None]:
        """The network without its LoRA: the teacher of a distillation."""
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()


def published_lora(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The LoRA's tensors of a `LearnedParts` state, named as they are published."""
    lora = {key.removeprefix("unet."): value for key, value in state.items() if key.startswith("unet.")}
    return {key.replace(f".{name}.weight", ".weight"): value for key, value in lora.items()}


class TrainingParts:
    """Frozen models, the parts that learn, and how texts condition them.

    Args:
        sources: folders. name: the LoRA to train.
        merged: LoRAs of `sources.longalign` that are merged into the U-Net first, in float32.
        train_adapter: whether the adapter learns too (the first stage).
        dropout: of the LoRA's branch.
    """

    def __init__(
        self, sources: Sources, name: str, merged: Sequence[str] = (), *, train_adapter: bool, dropout: float
    ) -> None:
        folder, (device, _) = sources.model, runtime_device()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = _frozen(CLIPTextModel.from_pretrained(folder / "text_encoder"), device)
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        self.alphas: Tensor = self.scheduler.alphas_cumprod.float()
        self.prediction: str = self.scheduler.config.prediction_type
        self.vae = load_autoencoder(folder)
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        if merged:
            assert sources.longalign is not None
            merge_lora(unet, *((read_lora(sources.longalign, stage), 1.0) for stage in merged))
        use_quick_group_norm(unet)
        if not torch.cuda.is_available():  # PyTorch's CPU flash kernel is slow backward on short sequences
            unet.set_attn_processor(AttnProcessor())
        self.text_encoder_2, self.tokenizer_2, adapter = None, None, None
        if sources.t5 is not None:
            self.tokenizer_2 = AutoTokenizer.from_pretrained(sources.t5 / "tokenizer_2")
            self.text_encoder_2 = _frozen(
                T5EncoderModel.from_pretrained(sources.t5 / "text_encoder_2"), device
            )
            adapter = self._adapter(sources.longalign, unet.config.cross_attention_dim)
        self.learned = LearnedParts(unet, name, adapter, train_adapter, dropout)
        self.settings = PromptSettings(mode=self._mode(sources.longalign))
        self.conditioning = self._conditioning()

    def _adapter(self, folder: Path | None, width: int) -> TextAdapter:
        if folder is not None and (folder / "adapter").is_dir():
            return TextAdapter.from_pretrained(folder / "adapter")
        assert self.text_encoder_2 is not None
        d_model = self.text_encoder_2.config.d_model
        return TextAdapter(d_model, d_model * 7 // 8, width)

    def _mode(self, folder: Path | None) -> str:
        return LongAlignParts.read(folder).mode if folder is not None else "smart"

    def _conditioning(self) -> SegmentConditioning:
        window = clip_window(self.text_encoder, self.tokenizer)
        clip = CachedTextEncoder(self.text_encoder, TokenReader(self.tokenizer, window))
        if self.text_encoder_2 is None:
            return SegmentConditioning([clip], self.settings)
        reader = TokenReader(self.tokenizer_2, self.settings.max_rows)
        t5 = CachedTextEncoder(self.text_encoder_2, reader)
        return SegmentConditioning([clip], self.settings, t5=t5, adapter=self.learned.adapter)

    def condition(self, texts: Sequence[str]) -> Tensor:
        """`[B, rows, C]` in the run's dtype on its device; gradient reaches a training adapter."""
        device, dtype = runtime_device()
        with torch.no_grad():
            blocks = self.conditioning.encode_blocks(texts)
        t5 = None if blocks.t5 is None else blocks.t5.to(device, dtype)
        return self.conditioning.combine(blocks.clip.to(device, dtype), t5)

    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The U-Net's output, float32, from float32 latents."""
        _, dtype = runtime_device()
        x = x.to(dtype, memory_format=torch.channels_last)
        return self.learned.unet(x, t, encoder_hidden_states=context).sample.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` in [0, 1], float32; differentiable."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return (self.vae.decode(scaled).sample.float() * 0.5 + 0.5).clamp(0, 1)

    def pipeline(self, few_steps: bool) -> LongAlignPipeline:
        """The product's pipeline around the parts as they are now."""
        pipe = LongAlignPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer,
            unet=self.learned.unet, scheduler=self.scheduler, text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2, adapter=self.learned.adapter, requires_safety_checker=False,
            segment_mode=self.settings.mode,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        if few_steps:
            pipe.use_few_steps()
        return pipe

    def paint(self, texts: Sequence[str], seed: int, few_steps: bool = False) -> Tensor:
        """Pictures `[B, 3, H, W]` in [0, 1] of texts, by 20 guided steps or 4 distilled ones."""
        generators = [torch.Generator().manual_seed(seed + index) for index in range(len(texts))]
        steps, guidance = (4, 0.0) if few_steps else (SHEET_STEPS, SD_GUIDANCE)
        pipe = self.pipeline(few_steps)
        options: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "output_type": "pt",
        }
        return pipe(list(texts), generator=generators, **options).images.float().cpu()


def _frozen(model: Any, device: torch.device) -> Any:
    return model.to(device).eval().requires_grad_(False)


def save_sheet(pictures: Tensor, path: Path) -> None:
    """Pictures `[B, 3, H, W]` in [0, 1] side by side, twice their size."""
    row = np.concatenate([picture.permute(1, 2, 0).numpy() for picture in pictures], axis=1)
    image = Image.fromarray((row * 255).round().astype(np.uint8))
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC).save(path)
