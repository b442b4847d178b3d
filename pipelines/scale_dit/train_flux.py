"""Recipe of `storybook-flux`: rectified flow on whole drawings and on guided crops of large ones.

Most batches are whole 128 px drawings with their captions. One in six holds crops of 256-4096 px drawings at
their true token positions, with the part of the small drawing around them as clean guide tokens: one network
learns the first stage and the step of Scale-DiT. Text padding is random and unmasked, as stock pipelines feed
it: up to 16 tokens, of which the last may stand for hundreds (`ShortAttention`).
"""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from pipelines.scale_dit.schedule import euler_schedule
from pipelines.scale_dit.transformer_scale_dit import (
    anchors,
    denoise,
    encode_guide,
    pack,
    unpack,
)
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.guidance import FLUX_GUIDANCE, FLUX_SHIFT
from pipelines.storybook.latents import GRID, View, guided_crops, load_autoencoder, whole_drawings
from pipelines.storybook.probe import Area, SceneProbe, scene_targets
from pipelines.storybook.scene import Scene
from pipelines.training.loop import LoopConfig, runtime_device
from pipelines.training.short_attention import ShortAttention

FLUX_CONFIG = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 6,
    "attention_head_dim": 48,
    "num_attention_heads": 4,
    "joint_attention_dim": 160,
    "pooled_projection_dim": 128,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 20, 20),
}
DROPOUT = 0.1
PROBED = 2  # single block at whose entry the scene must be readable
LONGEST_PADDING = (
    500  # that a last padding token stands for, log-uniform from 1, in every second padded batch
)
GUIDED_EVERY = 6  # one batch in so many holds guided crops
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
    "three yellow balls in a room",
)


def flux_recipe() -> LoopConfig:
    """About twelve hours on one core for all samples; half an hour on a GPU."""
    return LoopConfig(
        samples=1_500_000, batch=((0, 16), (100_000, 32), (400_000, 64)), lr=8e-4, muon_lr=1e-3, warmup=100,
        decay_from=0.6, ema_decay=0.9995, weight_decay=0.01, evaluate_every_s=600,
        adamw_names=(
            "x_embedder", "context_embedder", "proj_out.weight", "time_text_embed", "norm_out", "probe",
            "norm.linear", "norm1.linear", "norm1_context.linear",
        ),
    )  # fmt: skip


class TextParts:
    """Frozen text encoders of a model folder."""

    def __init__(self, folder: Path) -> None:
        self.t5_tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer_2")
        self.t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2").eval()
        self.clip_tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.clip = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()

    @torch.no_grad()
    def encode(
        self, texts: list[str], length: int | None = None, pad: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states `[B, T, 160]` and pooled CLIP vectors `[B, 128]`, float32.

        T is `length`, or the longest text plus `pad`; padding is not masked.
        """
        lists = self.t5_tokenizer(texts, truncation=True, max_length=length or 512).input_ids
        width = length or min(max(len(ids) for ids in lists) + pad, 512)
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        for row, sequence in enumerate(lists):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        # the pooled vector is causal: what follows the end of the text does not reach it
        tokens = self.clip_tokenizer(
            texts, padding="longest", truncation=True, max_length=77, return_tensors="pt"
        )
        return self.t5(input_ids=ids).last_hidden_state, self.clip(input_ids=tokens.input_ids).pooler_output


class FluxTask:
    """Velocity matching with more weight on tokens that show objects."""

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
        self.published = FluxTransformer2DModel(**FLUX_CONFIG)
        for block in (*self.published.transformer_blocks, *self.published.single_transformer_blocks):
            for name, module in block.named_modules():
                if (
                    name.endswith("linear") and "norm" in name
                ):  # adaptive norms start as identity with closed gates
                    nn.init.zeros_(module.weight)
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.published.proj_out.weight)
        self.probe = SceneProbe(self.published.inner_dim)
        self.model: nn.Module = nn.ModuleDict({"transformer": self.published, "probe": self.probe})
        self._probed: list[torch.Tensor] = []
        blocks = self.published.single_transformer_blocks
        blocks[min(PROBED, len(blocks) - 1)].norm.norm.register_forward_pre_hook(self._keep)
        self.text = TextParts(parts)
        self.vae = load_autoencoder(parts)
        self.whole = whole_drawings(self.vae, cache, size)
        self.views = guided_crops(self.vae, cache, size // 4)
        self.seed, self.object_weight, self.probe_weight = seed, object_weight, probe_weight

    def _keep(self, _: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self._probed.append(arguments[0])

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        guided = first_sample // batch % GUIDED_EVERY == GUIDED_EVERY - 1
        stream = self.views if guided else self.whole
        latents, entries = stream.batch(first_sample, batch)
        texts = []
        for row, (scene, _) in enumerate(entries):
            rng = sample_rng(self.seed + 2, first_sample + row)
            texts.append("" if rng.random() < DROPOUT else caption(scene, rng, 0.0).text)
        rng = sample_rng(self.seed + 3, first_sample)
        pad = rng.choice((0, 0, 2, 4, 8, 16))
        copies = math.exp(rng.uniform(0, math.log(LONGEST_PADDING))) if pad and rng.random() < 0.5 else 1.0
        states, pooled = self.text.encode(texts, pad=pad)
        attend = ShortAttention(states.shape[1], copies)
        generator = torch.Generator().manual_seed(first_sample)
        x = pack(latents[:, 0])
        noise = torch.randn(x.shape, generator=generator)
        t = torch.sigmoid(torch.randn(batch, generator=generator) + (-0.4 if guided else 0.2))
        noisy = x + t[:, None, None] * (noise - x)
        device, dtype = runtime_device()
        noisy, states, pooled, times, target = (
            part.to(device, dtype) for part in (noisy, states, pooled, t, noise - x)
        )
        if guided:
            guides = pack(latents[:, 1]).to(device, dtype)
            views = [view for _, view in entries if view]
            velocity = self._guided(noisy, states, pooled, times, guides, views, attend)
        else:
            ids = anchors((GRID, GRID)).to(device)
            velocity = denoise(self.published, noisy, states, pooled, times, image_ids=ids, attend=attend)
        error = (velocity.float() - target.float()).square().mean(-1)
        weight = token_weights(entries, self.object_weight).to(device)
        words, places = (part.to(device) for part in scene_targets([(s, shown(v)) for s, v in entries], GRID))
        read = self.probe(self._probed.pop()[:, -GRID * GRID :], words, places).mean()
        self._probed.clear()
        loss = (error * weight).mean() + self.probe_weight * read
        figures = {"guided" if guided else "whole": float(error.detach().mean())}
        return loss, {**figures, "probe": float(read.detach())}

    def _guided(
        self, noisy: torch.Tensor, states: torch.Tensor, pooled: torch.Tensor, times: torch.Tensor,
        guides: torch.Tensor, views: list[View], attend: ShortAttention,
    ) -> torch.Tensor:  # fmt: skip
        image_ids, guide_ids = (
            torch.stack(ids).to(noisy.device) for ids in zip(*map(view_ids, views), strict=True)
        )
        cache = encode_guide(self.published, guides, pooled, guide_ids, ShortAttention(0))
        return denoise(
            self.published, noisy, states, pooled, times, image_ids=image_ids, attend=attend, guide=cache
        )

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        pictures = sample_pictures(model["transformer"], self.text, self.vae, list(SHEET_PROMPTS), seed=5)
        rows = [
            np.concatenate([np.asarray(p) for p in pictures[i : i + 6]], 1)
            for i in range(0, len(pictures), 6)
        ]
        Image.fromarray(np.concatenate(rows)).resize((1536, 512)).save(folder / "sheet.png")
        return {}


def shown(view: View | None) -> Area:
    """What a training picture shows, in scene units of a square scene."""
    if view is None:
        return (0.0, 0.0, 1.0, 1.0)
    top, left = (at / view.side for at in view.at)
    return (left, top, left + GRID / view.side, top + GRID / view.side)


def token_weights(entries: list[tuple[Scene, View | None]], weight: float) -> torch.Tensor:
    """`[B, 64]`: `weight` on tokens that touch an object's box, 1 elsewhere, scaled to mean 1."""
    out = torch.ones(len(entries), GRID, GRID)
    for row, (scene, view) in enumerate(entries):
        side, at = (view.side, view.at) if view else (GRID, (0, 0))
        for item in scene.objects:
            left, top, right, bottom = (value * side for value in item.box)
            rows = slice(max(int(top - at[0]), 0), max(int(np.ceil(bottom - at[0])), 0))
            columns = slice(max(int(left - at[1]), 0), max(int(np.ceil(right - at[1])), 0))
            out[row, rows, columns] = weight
    out = out.flatten(1)
    return out / out.mean(1, keepdim=True)


def view_ids(view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions `[64, 3]` of the crop's tokens and of its guide's tokens."""
    full, low = (view.side, view.side), (view.low_side, view.low_side)
    out = []
    for ids, side, (row, column) in (
        (anchors(full), view.side, view.at),
        (anchors(low, full), view.low_side, view.low_at),
    ):
        grid = ids.view(side, side, 3)
        out.append(grid[row : row + GRID, column : column + GRID].reshape(-1, 3))
    return out[0], out[1]


@torch.no_grad()
def sample_pictures(
    model: nn.Module,
    text: TextParts,
    vae: nn.Module,
    prompts: list[str],
    seed: int,
    steps: int = 20,
    guidance: float = FLUX_GUIDANCE,
) -> list[Image.Image]:
    """Plain Euler with classifier-free guidance at 128 px, a batch at once (for sheets)."""
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    states, pooled = text.encode(["", *prompts], length=24)
    count = len(prompts)
    states = torch.cat([states[:1].expand(count, -1, -1), states[1:]]).to(device, dtype)
    pooled = torch.cat([pooled[:1].expand(count, -1), pooled[1:]]).to(device, dtype)
    x = pack(torch.randn(count, 16, GRID * 2, GRID * 2, generator=torch.Generator().manual_seed(seed))).to(
        device
    )
    ids = anchors((GRID, GRID)).to(device)
    sigmas = euler_schedule(FlowMatchEulerDiscreteScheduler(shift=FLUX_SHIFT), steps, 1.0).sigmas
    for now, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        twice, times = (
            torch.cat([x, x]).to(dtype),
            torch.full((2 * count,), float(now), device=device, dtype=dtype),
        )
        v = denoise(
            model, twice, states, pooled, times, image_ids=ids, attend=ShortAttention(states.shape[1])
        )
        plain, asked = v.float().chunk(2)
        x = x + (following - now).to(device) * (plain + guidance * (asked - plain))
    pixels = vae.decode(unpack(x, (GRID, GRID)).to(device, next(vae.parameters()).dtype)).sample.float().cpu()
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]
