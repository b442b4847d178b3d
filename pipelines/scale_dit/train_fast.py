"""Recipe of `storybook-flux/fast-lora`: the same pictures in eight calls and without guidance.

The student walks from noise to picture in its own few steps; from every place where one of them begins, a
frozen teacher solves its guided flow in finer steps to where that step should have led. The student learns
these straight lines: piecewise rectified flow (PeRFlow, arXiv:2405.07510) with guidance distilled along
(arXiv:2210.03142), on the student's own path, since that is where it will be asked (DAgger, arXiv:1011.0686).
The student is the teacher with a LoRA, so both share one set of weights, and no picture is needed.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn

from pipelines.scale_dit.schedule import euler_schedule
from pipelines.scale_dit.train_flux import SHEET_PROMPTS, TextParts, sample_pictures
from pipelines.scale_dit.transformer_scale_dit import anchors, denoise
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.guidance import FLUX_GUIDANCE
from pipelines.storybook.latents import GRID, MIX, load_autoencoder
from pipelines.storybook.scene import sample_scene
from pipelines.training.loop import LoopConfig, runtime_device
from pipelines.training.short_attention import ShortAttention

CALLS = 8  # of the student from noise to picture, at the noise levels of the model's own scheduler
TEACHER_STEPS = 2  # in each of them
RANK = 32
LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    "net.0.proj", "net.2", "proj_mlp", "proj_out", "norm.linear", "norm1.linear", "norm1_context.linear",
)  # fmt: skip


def fast_recipe() -> LoopConfig:
    """About three quarters of an hour on one core, two minutes on a GPU; a batch is a multiple of `CALLS`."""
    return LoopConfig(
        samples=40_000, batch=32, lr=1e-3, warmup=30, decay_from=0.4, ema_decay=0.995, weight_decay=0.0,
        evaluate_every_s=600,
    )  # fmt: skip


class FastTask:
    """Regression of the student's velocity, at every step of its own path, on where the teacher arrives.

    Args:
        parts: model folder with the transformer to distil, scheduler, text encoders and vae.
    """

    def __init__(self, parts: Path, seed: int = 43) -> None:
        torch.manual_seed(seed)
        device, _ = runtime_device()
        self.transformer = FluxTransformer2DModel.from_pretrained(parts / "transformer").to(device)
        self.transformer.requires_grad_(False)
        self.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)))
        self.model: nn.Module = self.transformer
        self.text = TextParts(parts)
        self.vae = load_autoencoder(parts)
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(parts / "scheduler")
        self.levels = euler_schedule(scheduler, CALLS, 1.0, device).sigmas
        self.seed = seed

    def loss(self, first_sample: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        """A sample is one step of one path; `batch` a multiple of `CALLS`."""
        if batch % CALLS:
            raise ValueError(f"batch is {batch}; it must be a multiple of {CALLS}, the steps of a path")
        count = batch // CALLS
        texts = []
        for index in range(first_sample, first_sample + batch, CALLS):
            rng = sample_rng(self.seed, index)
            texts.append(caption(sample_scene(rng, MIX), rng, 0.0).text)
        pad = sample_rng(self.seed + 1, first_sample).choice((0, 8))
        device, dtype = runtime_device()
        states, pooled = (part.to(device, dtype) for part in self.text.encode(["", *texts], pad=pad))
        generator = torch.Generator().manual_seed(first_sample)
        x = torch.randn(count, GRID * GRID, self.transformer.config.in_channels, generator=generator)
        x = x.to(device)
        begins, velocities = [], []
        for now, following in pairwise(self.levels):
            velocity = self._velocity(x, now.expand(count), states[1:], pooled[1:])
            begins.append(x)
            velocities.append(velocity)
            x = x + (following - now) * velocity.detach()
        begin = torch.cat(begins)
        start, stop = (levels.repeat_interleave(count) for levels in (self.levels[:-1], self.levels[1:]))
        end = self.teach(begin, start, stop, states, pooled)
        target = (end - begin) / (stop - start)[:, None, None]
        error = (torch.cat(velocities) - target).square().mean()
        return error, {"error": float(error.detach())}

    @torch.no_grad()
    def teach(self, begin: Tensor, start: Tensor, stop: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        """Where the teacher's guided flow arrives at noise level `stop` from `begin` at `start`.

        Args:
            begin: `[K B, N, C]`, K places each for B prompts; start, stop: `[K B]`.
            states, pooled: `[1 + B, ...]`, the empty prompt first.
        """
        self.transformer.disable_adapters()
        rows = begin.shape[0]
        both = []
        for part in (states, pooled):
            asked = part[1:].repeat(rows // (part.shape[0] - 1), *[1] * (part.ndim - 1))
            both.append(torch.cat([part[:1].expand_as(asked), asked]))
        step, x = (stop - start) / TEACHER_STEPS, begin
        for index in range(TEACHER_STEPS):
            times = start + index * step
            plain, asked = self._velocity(torch.cat([x, x]), torch.cat([times, times]), *both).chunk(2)
            x = x + step[:, None, None] * (plain + FLUX_GUIDANCE * (asked - plain))
        self.transformer.enable_adapters()
        return x

    def _velocity(self, x: Tensor, times: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        return denoise(
            self.transformer, x.to(states.dtype), states, pooled, times.to(states.dtype),
            image_ids=anchors((GRID, GRID)).to(x.device), attend=ShortAttention(states.shape[1]),
        ).float()  # fmt: skip

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        prompts = list(SHEET_PROMPTS)
        pictures = sample_pictures(model, self.text, self.vae, prompts, seed=5, steps=CALLS, guidance=1.0)
        rows = [
            np.concatenate([np.asarray(p) for p in pictures[i : i + 6]], 1)
            for i in range(0, len(pictures), 6)
        ]
        Image.fromarray(np.concatenate(rows)).resize((1536, 512)).save(folder / "sheet.png")
        return {}
