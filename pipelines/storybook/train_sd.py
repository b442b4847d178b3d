"""Recipe of `storybook-sd`: a small Stable Diffusion UNet on Storybook's latents at 128 px.

Velocity prediction (arXiv:2202.00512) on Stable Diffusion's own noise schedule. Its text is the frozen CLIP
tower of the model folder, padded to 77 tokens as stock pipelines feed it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.storybook.latents import GRID, load_autoencoder, whole_drawings
from pipelines.storybook.probe import SceneProbe, scene_targets
from pipelines.storybook.scene import Scene
from pipelines.training.group_norm import use_quick_group_norm
from pipelines.training.loop import LoopConfig, runtime_device

UNET_CONFIG = {
    "sample_size": 2 * GRID,
    "in_channels": 16,
    "out_channels": 16,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 128, 128),
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 4,  # diffusers' name; it is the number of heads
    "norm_num_groups": 8,
}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",  # calls start at pure noise, as pictures do
}
DROPOUT = 0.1
SHEET_PROMPTS = (
    "a red ball in a meadow",
    "a blue car on a beach",
    "a yellow star under a night sky",
    "a purple house in a room",
    "an orange cat in a snowy field",
    "a green cup in a desert",
    "a red apple and a blue book in a room",
    "a large white boat on a beach",
    "a blue umbrella to the left of a red chair in a meadow",
    "an orange fish above a purple mushroom in a desert",
    "a red tree in a snowy field",
    "a black bird and a yellow flower in a meadow",
)


def sd_recipe() -> LoopConfig:
    """About six hours on one core for all samples; a quarter of an hour on a GPU."""
    return LoopConfig(
        samples=600_000, batch=((0, 16), (100_000, 32), (300_000, 64)), lr=1e-3, muon_lr=1.5e-3,
        warmup=100, decay_from=0.6, ema_decay=0.9995, weight_decay=0.01, evaluate_every_s=600,
        adamw_names=("conv_in", "conv_out", "time_emb", "probe"),
    )  # fmt: skip


class ClipText:
    """The frozen CLIP tower of a model folder."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()

    @torch.no_grad()
    def encode(self, texts: list[str]) -> torch.Tensor:
        """Last hidden states `[B, 77, 128]`, float32."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        return self.encoder(input_ids=tokens.input_ids).last_hidden_state


class SDTask:
    """Velocity matching; the middle of the UNet must tell the scene (`SceneProbe`)."""

    def __init__(
        self,
        parts: Path,
        cache: Path,
        size: int = 40_000,
        seed: int = 41,
        object_weight: float = 2.0,
        probe_weight: float = 0.05,
    ) -> None:
        torch.manual_seed(seed)
        self.published = UNet2DConditionModel(**UNET_CONFIG).to(memory_format=torch.channels_last)
        if not torch.cuda.is_available():  # PyTorch's CPU flash kernel is slow backward on short sequences
            self.published.set_attn_processor(AttnProcessor())
        use_quick_group_norm(self.published)
        self.probe = SceneProbe(self.published.config.block_out_channels[-2])
        self.model: nn.Module = nn.ModuleDict({"unet": self.published, "probe": self.probe})
        self._probed: list[torch.Tensor] = []
        self.published.up_blocks[1].register_forward_hook(self._keep)
        self.text = ClipText(parts)
        self.vae = load_autoencoder(parts)
        self.stream = whole_drawings(self.vae, cache, size)
        self.scheduler = DDIMScheduler(**SCHEDULE)
        self.seed, self.object_weight, self.probe_weight = seed, object_weight, probe_weight

    def _keep(self, _: nn.Module, __: tuple[Any, ...], out: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            self._probed.append(out)

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents, entries = self.stream.batch(first_sample, batch)
        scenes = [scene for scene, _ in entries]
        texts = []
        for row, scene in enumerate(scenes):
            rng = sample_rng(self.seed + 2, first_sample + row)
            texts.append("" if rng.random() < DROPOUT else caption(scene, rng, 0.0).text)
        x = latents[:, 0]
        generator = torch.Generator().manual_seed(first_sample)
        noise = torch.randn(x.shape, generator=generator)
        t = torch.randint(0, 1000, (batch,), generator=generator)
        noisy, target = self.scheduler.add_noise(x, noise, t), self.scheduler.get_velocity(x, noise, t)
        device, dtype = runtime_device()
        noisy = noisy.to(device, dtype, memory_format=torch.channels_last)
        states, t = self.text.encode(texts).to(device, dtype), t.to(device)
        velocity = self.published(noisy, t, states).sample
        error = (velocity.float() - target.to(device)).square().mean(1)
        weight = cell_weights(scenes, self.object_weight).to(device)
        features = nn.functional.adaptive_avg_pool2d(self._probed.pop(), GRID).flatten(2).transpose(1, 2)
        self._probed.clear()
        shown = [(scene, (0.0, 0.0, 1.0, 1.0)) for scene in scenes]
        words, places = (part.to(device) for part in scene_targets(shown, GRID))
        read = self.probe(features, words, places).mean()
        loss = (error * weight).mean() + self.probe_weight * read
        return loss, {"error": float(error.detach().mean()), "probe": float(read.detach())}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        unet = model["unet"]
        pictures = sample_sd(unet, self.text, self.vae, list(SHEET_PROMPTS), seed=5)
        rows = [
            np.concatenate([np.asarray(p) for p in pictures[i : i + 6]], 1)
            for i in range(0, len(pictures), 6)
        ]
        Image.fromarray(np.concatenate(rows)).resize((1536, 512)).save(folder / "sheet.png")
        return {}


def cell_weights(scenes: list[Scene], weight: float) -> torch.Tensor:
    """`[B, 16, 16]`: `weight` on latent cells that touch an object's box, 1 elsewhere, scaled to mean 1."""
    side = 2 * GRID
    out = torch.ones(len(scenes), side, side)
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            left, top, right, bottom = (value * side for value in item.box)
            rows = slice(max(int(top), 0), max(int(np.ceil(bottom)), 0))
            columns = slice(max(int(left), 0), max(int(np.ceil(right)), 0))
            out[row, rows, columns] = weight
    return out / out.mean((1, 2), keepdim=True)


@torch.no_grad()
def sample_sd(
    unet: nn.Module,
    text: ClipText,
    vae: nn.Module,
    prompts: list[str],
    seed: int,
    steps: int = 20,
    guidance: float = SD_GUIDANCE,
) -> list[Image.Image]:
    """DDIM with classifier-free guidance at 128 px, a batch at once (for sheets and metrics)."""
    parameter = next(unet.parameters())
    device, dtype = parameter.device, parameter.dtype
    count = len(prompts)
    states = text.encode(["", *prompts])
    states = torch.cat([states[:1].expand(count, -1, -1), states[1:]]).to(device, dtype)
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    x = torch.randn(count, 16, 2 * GRID, 2 * GRID, generator=torch.Generator().manual_seed(seed)).to(device)
    for t in scheduler.timesteps:
        twice = torch.cat([x, x]).to(dtype, memory_format=torch.channels_last)
        plain, asked = unet(twice, t, states).sample.float().chunk(2)
        x = scheduler.step(plain + guidance * (asked - plain), t, x).prev_sample
    pixels = vae.decode(x.to(next(vae.parameters()).dtype)).sample.float().cpu()
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]
