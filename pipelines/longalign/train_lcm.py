"""Distillation to four steps: from any state on the teacher's path, the student answers with the path's end.

That map is the consistency function. Latent consistency distillation (arXiv 2310.04378; LongAlign: t in 10
... 999, a DDIM step of 20 by the guided teacher, pseudo-Huber loss with c = 0.001) learns it from itself:
the answer at t must be that one step ahead. What is right at the clean end then has to travel up step by
step, and a small LoRA passed its input's noise on long before (docs/storybook_log.md). So paths are walked to
their end here, nine steps each, and four of a path's states are learned from.
"""

from pathlib import Path

import torch
from torch import nn

from pipelines.longalign.pages import held_out_pages, write_page
from pipelines.longalign.solver import boundary_scalings, ddim_step, predict_clean, predict_noise
from pipelines.longalign.train_align import DRAWINGS, SCENES, STREAM_SEED
from pipelines.longalign.train_parts import SHEET_PAGES, Sources, TrainingParts, save_sheet
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.storybook.latents import LatentStream
from pipelines.training.loop import LoopConfig, runtime_device

PATH = (999, 874, 749, 624, 499, 374, 249, 166, 83)  # the teacher's steps, up to `SHIFT` earlier
SHIFT = 50
STATES = 4  # of each path
HUBER = 0.001


def lcm_recipe() -> LoopConfig:
    """A quarter of an hour on one core, a minute on a GPU."""
    return LoopConfig(
        samples=12_000, batch=16, lr=4e-4, warmup=100, decay_from=0.6, ema_decay=0.99, weight_decay=0.01,
        clip=0.3, evaluate_every_s=900,
    )  # fmt: skip


def consistency(x: torch.Tensor, clean: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """f(x, t) = c_skip x + c_out x0 for `x` `[B, ...]` and t `[B]`; times below 0 count as 0."""
    skip, out = (part.view(-1, *(1,) * (x.ndim - 1)) for part in boundary_scalings(t.clamp(min=0)))
    return skip * x + out * clean


def pseudo_huber(difference: torch.Tensor) -> torch.Tensor:
    """sqrt(d^2 + c^2) - c, averaged."""
    return ((difference.square() + HUBER**2).sqrt() - HUBER).mean()


class LCMTask:
    """Ends of the guided teacher's paths; the teacher is the network without this LoRA."""

    def __init__(self, sources: Sources, cache: Path, size: int = DRAWINGS, seed: int = 151) -> None:
        torch.manual_seed(seed)
        self.parts = TrainingParts(sources, "lcm", ("align",), train_adapter=False, dropout=0.0)
        self.model: nn.Module = self.parts.learned
        self.stream = LatentStream(self.parts.vae, cache, size, SCENES, STREAM_SEED)
        self.seed = seed

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        rows = -(-batch // STATES)
        first = first_sample // STATES
        latents, entries = self.stream.batch(first, rows)
        pages = [
            write_page(scene, sample_rng(self.seed + 1, first + row)).text
            for row, (scene, _) in enumerate(entries)
        ]
        device, _ = runtime_device()
        generator = torch.Generator().manual_seed(first_sample)
        x = latents[:, 0]
        noise = torch.randn(x.shape, generator=generator)
        times = torch.tensor(PATH) - int(torch.randint(SHIFT, (1,), generator=generator))
        cond, uncond = self.parts.condition([*pages, *[""] * rows]).chunk(2)
        start = self.parts.scheduler.add_noise(x, noise, times[:1].expand(rows)).to(device)
        states, end = self._path(start, times, cond, uncond)
        chosen = torch.rand(rows, len(PATH), generator=generator).argsort(1)[:, :STATES].mT  # [STATES, rows]
        picked = states[chosen.to(device), torch.arange(rows, device=device)].flatten(0, 1)
        t = times[chosen].flatten().to(device)
        student = consistency(picked, self._clean(picked, t, cond.repeat(STATES, 1, 1)), t)
        return pseudo_huber(student - end.repeat(STATES, 1, 1, 1)), {}

    @torch.no_grad()
    def _path(
        self, x: torch.Tensor, times: torch.Tensor, cond: torch.Tensor, uncond: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The guided teacher's states `[steps, B, ...]` at `times`, and where its path ends, `[B, ...]`."""
        states = []
        with self.parts.learned.as_before():
            for t, earlier in zip(times.tolist(), [*times[1:].tolist(), 0], strict=True):
                states.append(x)
                x = self._teacher_step(x, t, earlier, cond, uncond)
        return torch.stack(states), x

    def _clean(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        output = self.parts.network(x, t, cond)
        return predict_clean(output, x, t, self.parts.alphas.to(x.device), self.parts.prediction)

    def _teacher_step(
        self, x: torch.Tensor, t: int, earlier: int, cond: torch.Tensor, uncond: torch.Tensor
    ) -> torch.Tensor:
        alphas, prediction = self.parts.alphas.to(x.device), self.parts.prediction
        both = torch.full((2 * len(x),), t, device=x.device)
        asked, plain = self.parts.network(torch.cat([x, x]), both, torch.cat([cond, uncond])).chunk(2)
        # as Storybook's model is sampled; the paper's 7.5 belongs to Stable Diffusion
        output = plain + SD_GUIDANCE * (asked - plain)
        clean = predict_clean(output, x, t, alphas, prediction)
        return ddim_step(clean, predict_noise(output, x, t, alphas, prediction), earlier, alphas)

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        pages = [page.text for page in held_out_pages(SHEET_PAGES)]
        few, many = self.parts.paint(pages, 5, few_steps=True), self.parts.paint(pages, 5)
        save_sheet(few, folder / "sheet.png")
        return {"spread_of_four_steps": float(few.std()), "spread_of_twenty": float(many.std())}
