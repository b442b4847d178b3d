"""Recipes of `storybook-video`: temporal layers over `storybook-sd`, image weights frozen first.

"video" trains the temporal layers alone; "video-attention" goes on from there (`--start-from` what was
published) with self- and cross-attention too, as in the paper: no other layer reads the text. Samples are
drawn clips of eight frames with captions that say who moves where.

    python -m pipelines.storybook.clip_latents --parts assets/weights/storybook-sd --cache CACHE
    python -m pipelines.vidrd.train video --state DIR --cache CACHE \
        --parts assets/weights/storybook-sd --threads 1
    python -m pipelines.vidrd.publish video --state DIR --folder assets/weights/storybook-video \
        --parts assets/weights/storybook-sd

Latents depend on the autoencoder only: they can be drawn ahead, before the image model is finished, and need
12 minutes of one core for all 8,000 clips (27 ms to draw one, 61 ms to encode it). A run without them draws
what it lacks. The 24,000 samples take 50 minutes of one core: 125 ms each, of which the forward pass
takes half, the backward pass most of the rest, Muon 8 ms, text and latents 3 ms. `--minutes 9` makes a slice;
`--samples 12000` a run of half the length, with its rates laid out over it. `--start-from
assets/weights/storybook-video` goes on over a newer image model.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.storybook.clip_latents import STREAM_SIZE, ClipEntry, ClipStream, moving_boxes
from pipelines.storybook.clips import ClipMix, backwards, clip_caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.guidance import FILM_GUIDANCE
from pipelines.storybook.latents import load_autoencoder
from pipelines.training.command import load_weights
from pipelines.training.group_norm import use_quick_group_norm
from pipelines.training.loop import LoopConfig, runtime_device
from pipelines.vidrd.clip_loop import ClipLoop, ClipPlan
from pipelines.vidrd.denoiser import TextCondition, UNetDenoiser
from pipelines.vidrd.handover import Handover
from pipelines.vidrd.motion import measure_motion
from pipelines.vidrd.noise import SeededNoise
from pipelines.vidrd.objective import draw_times, from_pure_noise, load_sampler, noisy_and_target
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel, is_temporal

NUM_FRAMES = 8
DROPOUT = 0.1
EARLY_SHARE = 0.5  # so many samples more than evenly lie close to pure noise, where the text decides
MOTION_WEIGHT = 4.0  # of the error in how frames differ from their mean, beside the whole error
CONTEXT_SHARE = 0.6  # of the samples go on from frames that are there already
CONTEXT_NOISE = 150  # steps of noise on those at most: what a film has made itself is not quite clean
HELD_OUT_SEED = 900_061
HELD_OUT_COUNT = 32
SHEET_STEPS = 16
SHEET_PROMPTS = (
    "a red ball moves to the right in a meadow",
    "a blue car moves to the left on a beach",
    "a yellow star falls under a night sky",
    "an orange cat grows in a snowy field",
    "a green cup bounces in a room",
    "a purple house in a desert. The camera zooms in",
)
# positions of frames without a change of the frozen image layers
TEMPORAL: dict[str, Any] = {
    "add_temp_embed": True,
    "temp_embed_at": "attention",
    "add_motion_embed": True,
    "knows_context": True,
}
# the paper trains these layers of the image model as well
ATTENTION_PARTS = (".attn1.", ".attn2.")


def video_recipe() -> LoopConfig:
    """Three looks at each clip. Held-out error after 300 samples: image model 0.218; AdamW 1e-3 0.197, with
    Muon 1.5e-3 0.197, with Muon 4e-3 and AdamW 2e-3 0.190."""
    return LoopConfig(
        samples=24_000, batch=((0, 4), (8_000, 8)), lr=2e-3, muon_lr=4e-3, warmup=30, decay_from=0.5,
        ema_decay=0.998, weight_decay=0.01, evaluate_every_s=900,
    )  # fmt: skip


def video_attention_recipe() -> LoopConfig:
    """At the image model's rates: its attention alone reads the text, and has to learn words of motion."""
    return LoopConfig(
        samples=24_000, batch=8, lr=1e-3, muon_lr=1.5e-3, warmup=60, decay_from=0.4, ema_decay=0.998,
        weight_decay=0.01, evaluate_every_s=900,
    )  # fmt: skip


class FrozenText:
    """The frozen CLIP text tower of a model folder, or of a `text` folder that was trained on from it."""

    def __init__(self, folder: Path, text: Path | None = None) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder = CLIPTextModel.from_pretrained((text or folder) / "text_encoder")
        self.encoder = encoder.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> torch.Tensor:
        """Last hidden states `[B, 77, J]`, float32."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return self.encoder(input_ids=tokens.input_ids).last_hidden_state


class VideoTask:
    """The image model's own objective on clips; cells that show objects weigh more, and so does motion.

    Who moves where is a small part of a clip's error: most of it is what the first frame shows already. So
    the error in how frames differ from their mean counts again (appearance-debiased loss, arXiv 2310.08465),
    and half of the samples are the others played backwards, with the same noise and the opposite words.
    Many samples have their first or last frames given, nearly clean, each frame's time says which.

    Args:
        parts: model folder of `storybook-sd` (unet, vae, text encoder, tokenizer, scheduler).
        cache: folder of the clips' latents.
        size: different clips.
        with_attention: train self- and cross-attention too.
        text: folder whose text encoder reads the captions. Default: `parts`.
        temporal: options of `VidRDUNet3DModel`, in place of `TEMPORAL`.
    """

    def __init__(
        self,
        parts: Path,
        cache: Path,
        size: int = STREAM_SIZE,
        with_attention: bool = False,
        text: Path | None = None,
        object_weight: float = 3.0,
        seed: int = 61,
        **temporal: Any,
    ) -> None:
        torch.manual_seed(seed)
        image = UNet2DConditionModel.from_pretrained(parts / "unet")
        self.model: nn.Module = VidRDUNet3DModel.from_unet2d(image, **{**TEMPORAL, **temporal})
        choose_trained(self.model, with_attention)
        quicken(self.model)
        without_dropout(self.model)
        self.sampler = from_pure_noise(load_sampler(parts))
        self.text = FrozenText(parts, text)
        self.vae = load_autoencoder(parts)
        self.stream = ClipStream(self.vae, cache, size, NUM_FRAMES)
        held_out = ClipMix(scenes=replace(ClipMix().scenes, held_out=True))
        self.held_out = ClipStream(self.vae, cache, HELD_OUT_COUNT, NUM_FRAMES, held_out, HELD_OUT_SEED)
        self.object_weight, self.seed = object_weight, seed

    def starting_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Weights of a published video model; image weights that its folder leaves out are this run's own."""
        return {**self.model.state_dict(), **load_weights(folder / "unet")}

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(first_sample)
        forwards = batch - batch // 2
        latents, entries = self.stream.batch(first_sample // 2, forwards)
        sample = _Sample.of(latents, entries, self.object_weight)
        texts = [entry.caption for entry in entries]
        times = draw_times(self.sampler, batch, generator, EARLY_SHARE)
        noise = torch.randn(batch, *sample.x.shape[1:], generator=generator)
        for row in range(batch // 2):  # clips that have no way back come again, with other noise
            rng = sample_rng(self.seed + 2, first_sample + row)
            clip = entries[row].clip
            back = backwards(clip) if clip is not None else None
            texts.append(texts[row] if back is None else clip_caption(back, rng).text)
            sample = sample.and_again(row, is_backwards=back is not None)
            if back is not None:
                noise[forwards + row], times[forwards + row] = noise[row], times[row]
            if rng.random() < DROPOUT:
                texts[row] = texts[-1] = ""
        rngs = [sample_rng(self.seed + 3, first_sample + row) for row in range(batch)]
        given = torch.stack([draw_context(rng, NUM_FRAMES) for rng in rngs])
        known = torch.randint(0, CONTEXT_NOISE, (batch,), generator=generator)
        return self._error(self.model, sample, texts, noise, times, given, known)

    def _error(
        self,
        unet: nn.Module,
        sample: "_Sample",
        texts: list[str],
        noise: torch.Tensor,
        times: torch.Tensor,
        given: torch.Tensor,
        known: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and figures of the frames that are not `given` (`[B, F]`); those are at the times `known`."""
        noisy, target = noisy_and_target(self.sampler, sample.x, noise, times)
        nearly_clean, _ = noisy_and_target(self.sampler, sample.x, noise, known)
        noisy = torch.where(given[:, None, :, None, None], nearly_clean, noisy)
        frame_times = torch.where(given, known[:, None], times[:, None])
        device, dtype = runtime_device()
        answer = unet(
            noisy.to(device, dtype), frame_times.to(device), self.text.encode(texts).to(device, dtype)
        ).sample
        free = (~given).to(device)[:, None, :, None, None]
        share = free.float().mean(2, keepdim=True)
        difference = (answer.float() - target.to(device)) * free
        error = difference.square().mean(1)
        motion = ((difference - difference.mean(2, keepdim=True) / share) * free).square().mean(1)
        weights = sample.weights.to(device) / share[:, 0]
        loss = ((error + MOTION_WEIGHT * motion) * weights).mean()
        figures = {"error": error / share[:, 0], "motion_error": motion / share[:, 0]}
        return loss, {name: float(value.detach().mean()) for name, value in figures.items()}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Error on held-out clips with fixed noise, and how the sheet's films move."""
        latents, entries = self.held_out.batch(0, HELD_OUT_COUNT)
        figures = []
        for first in range(0, HELD_OUT_COUNT, 8):
            part = slice(first, first + 8)
            sample = _Sample.of(latents[part], entries[part], self.object_weight)
            texts = [entry.caption for entry in entries[part]]
            generator = torch.Generator().manual_seed(first)
            noise = torch.randn(sample.x.shape, generator=generator)
            times = draw_times(self.sampler, len(texts), generator)
            given = torch.zeros(2, len(texts), NUM_FRAMES, dtype=torch.bool)
            given[1, :, : NUM_FRAMES // 2] = True
            clean = torch.zeros_like(times)
            alone, after = (self._error(model, sample, texts, noise, times, part, clean)[1] for part in given)
            figures.append({**alone, **{f"{name}_with_context": value for name, value in after.items()}})
        films = sample_clips(model, self.text, self.vae, self.sampler, list(SHEET_PROMPTS), 5, SHEET_STEPS)
        rows = [np.concatenate([np.asarray(frame) for frame in film], axis=1) for film in films]
        Image.fromarray(np.concatenate(rows)).save(folder / "sheet.png")
        reports = [measure_motion([film]) for film in films]
        return {
            **{f"held_out_{name}": sum(f[name] for f in figures) / len(figures) for name in figures[0]},
            "flow_px": sum(report.flow_px for report in reports) / len(reports),
            "warp_error": sum(report.warp_error for report in reports) / len(reports),
        }


def draw_context(rng: Random, num_frames: int) -> torch.Tensor:
    """Which frames of a sample are given, `[F]` bool: none, the first, the last, or some of both."""
    given = torch.zeros(num_frames, dtype=torch.bool)
    if rng.random() < CONTEXT_SHARE:
        where = rng.choice(("head", "head", "head", "both", "tail"))
        most = num_frames // 2 if where != "both" else num_frames // 4
        if where != "tail":
            given[: rng.randint(1, most)] = True
        if where != "head":
            given[num_frames - rng.randint(1, most) :] = True
    return given


@dataclass(frozen=True)
class _Sample:
    """Latents `[B, C, F, h, w]` with the weights of their cells, `[B, F, h, w]`."""

    x: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, latents: torch.Tensor, entries: list[ClipEntry], object_weight: float) -> "_Sample":
        x = latents.transpose(1, 2)
        return cls(x, cell_weights(entries, x.shape[2:], object_weight))

    def and_again(self, row: int, is_backwards: bool) -> "_Sample":
        """One row more: a row played backwards, or as it is."""
        x, weights = self.x[row : row + 1], self.weights[row : row + 1]
        if is_backwards:
            x, weights = x.flip(2), weights.flip(1)
        return _Sample(torch.cat([self.x, x]), torch.cat([self.weights, weights]))


def choose_trained(unet: nn.Module, with_attention: bool) -> None:
    """Freeze the image layers; with `with_attention` their self- and cross-attention is trained too."""
    for name, parameter in unet.named_parameters():
        chosen = is_temporal(name) or (with_attention and any(part in name for part in ATTENTION_PARTS))
        parameter.requires_grad_(chosen)


def quicken(unet: Any) -> None:
    """Layouts and backward passes that are quick on CPUs; results stay the same."""
    use_quick_group_norm(unet)
    for module in unet.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    if not torch.cuda.is_available():  # PyTorch's CPU flash kernel is slow backward on short sequences
        unet.set_attn_processor(AttnProcessor())


def without_dropout(model: nn.Module) -> None:
    """A run sees each clip two or three times, nothing is learned by heart; masks take a sixth to a third
    of a step on a CPU."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def cell_weights(entries: list[ClipEntry], shape: torch.Size, weight: float) -> torch.Tensor:
    """`[B, F, h, w]`: `weight` on latents that touch an object's box, 1 elsewhere, scaled to mean 1."""
    frames, height, width = shape
    out = torch.ones(len(entries), *shape)
    for row, entry in enumerate(entries):
        for frame, boxes in enumerate(moving_boxes(entry.clip, frames)):
            for left, top, right, bottom in boxes:
                rows = slice(max(math.floor(top * height), 0), max(math.ceil(bottom * height), 0))
                columns = slice(max(math.floor(left * width), 0), max(math.ceil(right * width), 0))
                out[row, frame, rows, columns] = weight
    return out / out.mean(dim=(1, 2, 3), keepdim=True)


@torch.no_grad()
def sample_clips(
    unet: nn.Module,
    text: FrozenText,
    vae: nn.Module,
    sampler: Any,
    prompts: list[str],
    seed: int,
    steps: int = SHEET_STEPS,
    guidance: float = FILM_GUIDANCE,
) -> list[list[Image.Image]]:
    """One clip per prompt at the training size, decoded frame by frame (for sheets and metrics)."""
    parameter = next(unet.parameters())
    states = text.encode(["", *prompts]).to(parameter)
    condition = TextCondition(states[1:], states[:1].expand(len(prompts), -1, -1), guidance)
    side = unet.config.sample_size
    shape = (len(prompts), unet.config.out_channels, NUM_FRAMES, side, side)
    noise = SeededNoise(shape, [seed + row for row in range(len(prompts))])
    own = type(sampler).from_config(sampler.config)
    loop = ClipLoop(UNetDenoiser(unet), own, steps, noise, parameter.device)
    latents = loop.film(ClipPlan(0, Handover(0), Handover(0), lambda call: condition)).latents
    z = latents.transpose(1, 2).flatten(0, 1).to(next(vae.parameters()))
    pixels = torch.cat([vae.decode(part).sample for part in z.split(NUM_FRAMES)]).float().cpu()
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    films = np.split(pixels, len(prompts))
    return [[Image.fromarray(frame) for frame in film] for film in films]
