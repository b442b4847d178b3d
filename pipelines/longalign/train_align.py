"""Stage one: the U-Net learns to listen to pages (LoRA), and T5's adapter is trained beside it."""

from pathlib import Path

import torch
from torch import nn

from pipelines.longalign.pages import held_out_pages, write_page
from pipelines.longalign.train_parts import SHEET_PAGES, Sources, TrainingParts, save_sheet
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.latents import LatentStream
from pipelines.storybook.scene import Scene, SceneMix
from pipelines.training.loop import LoopConfig, runtime_device

DROPOUT = 0.1  # of the whole text
SHORT_SHARE = 0.15  # short captions keep short prompts working
DRAWINGS = 8_000
STREAM_SEED = 143
SCENES = SceneMix(counts=(0.15, 0.5, 0.35), groups=0.0, related=0.7)
HELD_OUT_SEED = 900_023
HELD_OUT = 64  # drawings


def align_recipe() -> LoopConfig:
    """About three hours on one core, ten minutes on a GPU. The paper: lr 3e-5, batch 192, 28,750 steps."""
    return LoopConfig(
        samples=120_000, batch=16, lr=4e-4, warmup=200, decay_from=0.6, ema_decay=0.999, weight_decay=0.01,
        clip=0.3, evaluate_every_s=900,
    )  # fmt: skip


class AlignTask:
    """Denoising loss on drawings with pages as captions."""

    def __init__(self, sources: Sources, cache: Path, size: int = DRAWINGS, seed: int = 141) -> None:
        torch.manual_seed(seed)
        self.parts = TrainingParts(sources, "align", train_adapter=True, dropout=0.1)
        self.model: nn.Module = self.parts.learned
        self.stream = LatentStream(self.parts.vae, cache, size, SCENES, STREAM_SEED)
        self.seed = seed

    def text_of(self, scene: Scene, sample: int) -> str:
        """A page, sometimes a short caption, sometimes nothing."""
        rng = sample_rng(self.seed + 1, sample)
        chance = rng.random()
        if chance < DROPOUT:
            return ""
        if chance < DROPOUT + SHORT_SHARE:
            return caption(scene, rng, 0.0).text
        return write_page(scene, rng).text

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents, entries = self.stream.batch(first_sample, batch)
        texts = [self.text_of(scene, first_sample + row) for row, (scene, _) in enumerate(entries)]
        return self.denoising_loss(latents[:, 0], texts, first_sample), {}

    def denoising_loss(self, x: torch.Tensor, texts: list[str], seed: int) -> torch.Tensor:
        """Mean squared error of the network's prediction at random times."""
        scheduler, (device, _) = self.parts.scheduler, runtime_device()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(x.shape, generator=generator)
        t = torch.randint(0, len(self.parts.alphas), (len(x),), generator=generator)
        target = scheduler.get_velocity(x, noise, t) if self.parts.prediction == "v_prediction" else noise
        noisy = scheduler.add_noise(x, noise, t).to(device)
        output = self.parts.network(noisy, t.to(device), self.parts.condition(texts))
        return (output - target.to(device)).square().mean()

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        pages = [page.text for page in held_out_pages(SHEET_PAGES)]
        save_sheet(self.parts.paint(pages, 5), folder / "sheet.png")
        held_out = SceneMix(counts=SCENES.counts, groups=0.0, held_out=True)
        stream = LatentStream(self.parts.vae, folder / "held_out", HELD_OUT, held_out, HELD_OUT_SEED)
        latents, entries = stream.batch(0, HELD_OUT)
        texts = [write_page(scene, sample_rng(HELD_OUT_SEED, i)).text for i, (scene, _) in enumerate(entries)]
        firsts = range(0, HELD_OUT, 16)
        losses = [self.denoising_loss(latents[i : i + 16, 0], texts[i : i + 16], i) for i in firsts]
        return {"held_out_loss": float(torch.stack(losses).mean())}
