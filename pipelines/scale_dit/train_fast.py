"""Recipe of `storybook-flux/fast-lora`: the same pictures in four calls and without guidance.

The path from noise to picture is cut into a few windows. Within each, a frozen teacher solves its guided flow
in small steps, and the student learns the straight line from where the window begins to where the teacher
ends: piecewise rectified flow (PeRFlow, arXiv:2405.07510), with guidance distilled along (arXiv:2210.03142).
The student is the teacher with a LoRA, so both share one set of weights.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn

from pipelines.scale_dit.train_flux import SHEET_PROMPTS, TextParts, sample_pictures
from pipelines.scale_dit.transformer_scale_dit import anchors, denoise, pack
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.latents import GRID, load_autoencoder, whole_drawings
from pipelines.training.loop import LoopConfig, runtime_device
from pipelines.training.short_attention import ShortAttention

WINDOWS = 4
TEACHER_STEPS = 4  # of each window
GUIDANCE = 5.0  # what the teacher is best at, by the eyes (docs/storybook_log.md)
RANK = 32
LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    "net.0.proj", "net.2", "proj_mlp", "proj_out", "norm.linear", "norm1.linear", "norm1_context.linear",
)  # fmt: skip


def fast_recipe() -> LoopConfig:
    """About forty minutes on one AMX core, two on a GPU."""
    return LoopConfig(
        samples=30_000, batch=16, lr=1e-3, warmup=30, decay_from=0.4, ema_decay=0.998, weight_decay=0.0,
        evaluate_every_s=600,
    )  # fmt: skip


class FastTask:
    """Regression of the student's velocity on the teacher's straightened windows.

    Args:
        parts: model folder with the transformer to distil, text encoders and vae.
        cache: folder of latents, as the teacher was trained on.
    """

    def __init__(self, parts: Path, cache: Path, size: int = 40_000, seed: int = 43) -> None:
        torch.manual_seed(seed)
        device, _ = runtime_device()
        self.transformer = FluxTransformer2DModel.from_pretrained(parts / "transformer").to(device)
        self.transformer.requires_grad_(False)
        self.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)))
        self.model: nn.Module = self.transformer
        self.text = TextParts(parts)
        self.vae = load_autoencoder(parts)
        self.whole = whole_drawings(self.vae, cache, size)
        self.seed = seed

    def loss(self, first_sample: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        latents, entries = self.whole.batch(first_sample, batch)
        texts = [
            caption(scene, sample_rng(self.seed + 2, first_sample + row), 0.0).text
            for row, (scene, _) in enumerate(entries)
        ]
        states, pooled = self.text.encode(
            ["", *texts], pad=sample_rng(self.seed, first_sample).choice((0, 8))
        )
        device, dtype = runtime_device()
        states, pooled = states.to(device, dtype), pooled.to(device, dtype)
        generator = torch.Generator().manual_seed(first_sample)
        x = pack(latents[:, 0])
        noise = torch.randn(x.shape, generator=generator)
        window = torch.randint(0, WINDOWS, (batch,), generator=generator)
        start = 1.0 - window / WINDOWS
        begin = x + start[:, None, None] * (noise - x)
        begin, start = begin.to(device), start.to(device)
        end = self.teach(begin, start, states, pooled)
        share = torch.rand(batch, generator=generator).to(device)
        # the network is called where windows begin; a quarter of the samples holds the line in between
        share = torch.where(share < 0.25, share * 4, torch.zeros_like(share))
        point = begin + share[:, None, None] * (end - begin)
        velocity = self._velocity(point, start - share / WINDOWS, states[1:], pooled[1:])
        error = (velocity - (begin - end) * WINDOWS).square().mean()
        return error, {"error": float(error.detach())}

    @torch.no_grad()
    def teach(self, begin: Tensor, start: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        """Where the guided flow of the teacher arrives at the end of each sample's window."""
        self.transformer.disable_adapters()
        batch = begin.shape[0]
        both = [torch.cat([part[:1].expand(batch, *part.shape[1:]), part[1:]]) for part in (states, pooled)]
        step, x = 1.0 / WINDOWS / TEACHER_STEPS, begin
        for index in range(TEACHER_STEPS):
            times = start - index * step
            plain, asked = self._velocity(torch.cat([x, x]), torch.cat([times, times]), *both).chunk(2)
            x = x - step * (plain + GUIDANCE * (asked - plain))
        self.transformer.enable_adapters()
        return x

    def _velocity(self, x: Tensor, times: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        return denoise(
            self.transformer, x.to(states.dtype), states, pooled, times.to(states.dtype),
            image_ids=anchors((GRID, GRID)).to(x.device), attend=ShortAttention(states.shape[1]),
        ).float()  # fmt: skip

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        prompts = list(SHEET_PROMPTS)
        pictures = sample_pictures(model, self.text, self.vae, prompts, seed=5, steps=WINDOWS, guidance=1.0)
        rows = [
            np.concatenate([np.asarray(p) for p in pictures[i : i + 6]], 1)
            for i in range(0, len(pictures), 6)
        ]
        Image.fromarray(np.concatenate(rows)).resize((1536, 512)).save(folder / "sheet.png")
        return {}
