"""Recipe of `storybook-flextok`: rectified flow on the frozen autoencoder's latents under nested dropout.

One token count per batch, drawn evenly over the octaves 1, 2, 3-4, ..., 129-256: both transformers then work
on exactly the tokens that count (the rest is left out or collapsed, which changes nothing), so that a sample
costs about a third. In twelve batches every octave comes once, the last one four times. Features of the
decoder's second block are drawn towards those of the frozen eyes (arXiv 2410.06940).

The first tokens are free to tell what there is; all others start at a patch of the picture, in rounds over
all patches, and each head of the decoder's first block starts out looking at one round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from pipelines.flextok.blocks import normalize
from pipelines.flextok.flow_sampler import FlowOptions, add_noise
from pipelines.flextok.measures import STOPS
from pipelines.flextok.pipeline_flextok import FlexTokPipeline
from pipelines.flextok.token_places import FREE, start_at_places
from pipelines.flextok.token_readers import (
    FEATURES,
    GistReader,
    Labels,
    PatchReader,
    PlaceReader,
    WordReader,
    middle_patches,
    scene_labels,
    unlike_features,
)
from pipelines.flextok.token_stream import TokenStream
from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.detector import StorybookEyes
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.latents import GRID, TILE, LatentStream, encode
from pipelines.storybook.scene import Scene, SceneMix, sample_scene
from pipelines.training.command import load_weights
from pipelines.training.loop import LoopConfig, runtime_device

SIZES: dict[str, Any] = {
    "in_channels": 16, "patch_size": (2, 2), "grid": (GRID, GRID), "num_registers": 256,
    "levels": (8, 5, 5, 5), "posemb_type": "learnable_sum",
}  # fmt: skip
ENCODER: dict[str, Any] = {**SIZES, "dim": 128, "head_dim": 32, "depth": 6}
DECODER: dict[str, Any] = {**SIZES, "dim": 160, "head_dim": 40, "depth": 6, "max_timestep": 20.0}
PARTS = ("encoder", "decoder")
NULL_SHARE = 0.1
LONG = 3  # extra batches of the last octave in a round: half of all tokens learn from these alone
EARLY, EARLY_SHARE = 0.15, 0.4  # so many samples lie this close to pure noise: only the tokens tell them
READING, READING_SHARE = 50_000, 0.9  # and so many of the first samples: reading tokens comes before painting
TIME_SPREAD = 1.4
TIME_SHIFT = 1.0  # towards noise, where the tokens are needed
DRAWN = SceneMix(counts=(0.45, 0.5, 0.05), sized=0.6)
SEED, SIZE = 51, 60_000  # of the drawings from which tokenizer and generator learn
SHOWN_STOPS = (1, 4, 16, 64, 256)
HELD_OUT_SEED, HELD_OUT = 9_000, 64  # of drawings that no training sees
FREE_SHARE = 0.5  # of the encoder's batches end with the free tokens


def tokenizer_recipe() -> LoopConfig:
    """About five hours on one core for all samples (36 a second); half an hour on a GPU."""
    return LoopConfig(
        samples=600_000, batch=((0, 16), (60_000, 32), (300_000, 64)), lr=8e-4, muon_lr=1e-3, warmup=100,
        decay_from=0.6, ema_decay=0.9995, weight_decay=0.01, evaluate_every_s=600,
        adamw_names=(
            "patch_emb", "enc_to_latents", "registers", "from_latents", "dropout", "time_embedder", "adaLN",
            "to_patches", "posemb", "repa", "words", "reader", "gist", "patches",
        ),
    )  # fmt: skip


def encoder_recipe() -> LoopConfig:
    """Half an hour to an hour on one core for all samples (60 to 110 a second)."""
    return replace(tokenizer_recipe(), samples=200_000, batch=32, decay_from=0.5, ema_decay=0.999)


def decoder_recipe() -> LoopConfig:
    """About an hour and a half on one core for all samples (40 to 68 a second)."""
    return replace(tokenizer_recipe(), samples=300_000, batch=32, decay_from=0.4)


class TokenizerPair(nn.Module):
    """Both transformers and, for training alone, a projection of decoder features and readers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = FlexTokEncoderModel(**ENCODER), FlexTokDecoderModel(**DECODER)
        start_at_places(self.encoder, self.decoder)
        width = DECODER["dim"]
        self.repa = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU(),
            nn.Linear(2 * width, FEATURES),
        )  # fmt: skip
        self.words = WordReader(width)
        self.reader, self.gist = PlaceReader(DECODER), GistReader(DECODER)
        self.patches = PatchReader(ENCODER["dim"])


def token_count(batch_index: int, seed: int, most: int) -> int:
    """Tokens of a batch: in a round every octave once and the last one more often, evenly inside it."""
    stops = [stop for stop in STOPS if stop <= most] + [most] * LONG
    turn, place = divmod(batch_index, len(stops))
    order = Random(f"{seed}/{turn}").sample(stops, len(stops))
    return Random(f"{seed}/{turn}/{place}").randint(order[place] // 2 + 1, order[place])


@torch.no_grad()
def eye_features(eyes: StorybookEyes, pictures: torch.Tensor) -> torch.Tensor:
    """What the eyes see per 16 px cell, `[B, 128, H / 16, W / 16]`, of pictures `[B, 3, H, W]` in [-1, 1]."""
    parameter = next(eyes.parameters())
    x = F.pixel_unshuffle(pictures.to(parameter.device, parameter.dtype), 4)
    x = eyes.eighth(eyes.to_eighth(eyes.quarter(eyes.stem(x))))
    return eyes.sixteenth(eyes.to_sixteenth(x)).float()


class FeatureStream:
    """Latents of a stream with the eyes' features of the same drawings, kept in a file beside them."""

    def __init__(self, latents: LatentStream, eyes: StorybookEyes, folder: Path) -> None:
        self.latents, self.eyes = latents, eyes
        shape = (latents.size, FEATURES, GRID, GRID)
        path = folder / f"features_{latents.seed}_{latents.size}_{latents.drawn}.npy"
        mode = "r+" if path.exists() else "w+"
        self._file = np.lib.format.open_memmap(
            path, mode=mode, dtype=np.float16, shape=None if mode == "r+" else shape
        )

    def batch(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor, list[Scene]]:
        """Latents `[B, 16, 16, 16]`, features `[B, 128, 8, 8]` (float32) and scenes."""
        latents, entries = self.latents.batch(first, count)
        slots = [index % self.latents.size for index in range(first, first + count)]
        scenes = [scene for scene, _ in entries]
        missing = [i for i, slot in enumerate(slots) if not self._file[slot].any()]
        if missing:
            pictures = to_tensor([draw_scene(scenes[i], TILE, TILE) for i in missing])
            for i, features in zip(missing, eye_features(self.eyes, pictures).cpu(), strict=True):
                self._file[slots[i]] = features.numpy().astype(np.float16)
        features = torch.from_numpy(np.stack([self._file[slot] for slot in slots])).float()
        return latents[:, 0], features, scenes


@dataclass(frozen=True)
class Shown:
    """What a batch of drawings shows: labels, the eyes' features and weights of cells (mean 1)."""

    labels: Labels
    features: torch.Tensor
    weights: torch.Tensor


class TokenizerTask:
    """Velocity matching through the tokens, with more weight on patches that show objects."""

    reading = READING

    def __init__(
        self, parts: Path, eyes: Path, cache: Path, size: int = SIZE, seed: int = SEED,
        repa_weight: float = 0.5, object_weight: float = 3.0,
        spread_weight: float = 0.5,
        read_weight: float = 1.0,
        gist_weight: float = 1.0,
        words_weight: float = 0.1,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.model: nn.Module = TokenizerPair()
        device, dtype = runtime_device()
        self.vae = AutoencoderKL.from_pretrained(parts / "vae").to(
            device, dtype, memory_format=torch.channels_last
        )
        self.vae.eval().requires_grad_(False)
        seer = StorybookEyes.from_pretrained(eyes).to(device).eval().requires_grad_(False)
        self.stream = FeatureStream(LatentStream(self.vae, cache, size, DRAWN, seed), seer, cache)
        self.seed, self.repa_weight, self.object_weight = seed, repa_weight, object_weight
        self.spread_weight, self.read_weight = spread_weight, read_weight
        self.gist_weight, self.words_weight = gist_weight, words_weight

    def starting_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Weights to start from: those of a published folder, and what it lacks as it is."""
        self.reading = 0  # they can read already
        state = dict(self.model.state_dict())
        for part in PARTS:
            if hasattr(self.model, part):
                state |= {f"{part}.{name}": value for name, value in load_weights(folder / part).items()}
        return state

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        device, _ = runtime_device()
        latents, features, scenes = self.stream.batch(first_sample, batch)
        decoder = self.model.decoder
        count = token_count(first_sample // batch, self.seed, decoder.config.num_registers)
        weights = latent_weights(scenes, self.object_weight)
        shown = self._shown(features, scenes, weights)
        codes, extra, figures = self._tokens(first_sample, latents, count, shown)
        generator = torch.Generator().manual_seed(first_sample)
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.sigmoid(TIME_SPREAD * torch.randn(batch, generator=generator) + TIME_SHIFT)
        share = READING_SHARE if first_sample < self.reading else EARLY_SHARE
        early = torch.rand(batch, generator=generator) < share
        t = torch.where(early, 1 - EARLY * torch.rand(batch, generator=generator), t)
        empty = (torch.rand(batch, generator=generator) < NULL_SHARE).tolist()
        noisy, target = add_noise(latents, noise, t).to(device), (noise - latents).to(device)
        condition = decoder.condition(codes, [count] * batch, empty)
        with middle_patches(decoder.module_dict["dec_transformer"]) as late:
            velocity, early_patches = decoder(noisy, condition, t.to(device), return_features=True)
        error = (velocity - target).square().mean(1)
        flow = (error * weights.to(device)).mean()
        alignment = unlike_features(self.model.repa(early_patches), shown.features, shown.weights)
        told = normalize(late[0][shown.labels.rows, shown.labels.cells])
        words, right = self.model.words(told, shown.labels)
        octave = 1 << (count - 1).bit_length()
        figures |= {
            "flow": float(flow.detach()),
            "repa": float(alignment.detach()),
            "painted_kind": right,
            f"k{octave}": float(flow.detach()),
        }
        return flow + self.repa_weight * alignment + self.words_weight * words + extra, figures

    def _shown(self, features: torch.Tensor, scenes: list[Scene], weights: torch.Tensor) -> Shown:
        device, _ = runtime_device()
        cells = F.avg_pool2d(weights[:, None], 2)[:, 0]
        return Shown(scene_labels(scenes).to(device), features.to(device), cells.to(device))

    def _encoder_of(self, model: nn.Module) -> Any:
        return model.encoder

    def _tokens(
        self, first_sample: int, latents: torch.Tensor, count: int, shown: Shown
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Codes `[B, count, n]` of latents, what they cost beside the decoder's loss, and figures."""
        device, _ = runtime_device()
        encoder = self.model.encoder
        with middle_patches(encoder.module_dict["enc_transformer"]) as seen:
            z = encoder(latents.to(device), count)
        codes, _ = encoder.quantizer.quantize(z)
        alike, read = unused_codes(z), self.model.reader(codes, latents.to(device))
        generator = torch.Generator().manual_seed(first_sample + 1)
        counts = torch.randint(1, min(count, FREE) + 1, (len(latents),), generator=generator).to(device)
        told = (shown.labels, shown.features, shown.weights)
        gist, right = self.model.gist(codes, counts, *told)
        patches = self.model.patches(seen[0], *told)
        extra = self.spread_weight * alike + self.read_weight * read + self.gist_weight * gist + patches
        losses = {"spread": alike, "read": read, "gist": gist, "patches": patches}
        figures = {name: float(value.detach()) for name, value in losses.items()}
        return codes, extra, figures | {"kind": right}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        pictures = to_tensor(held_out_drawings(8))
        latents = encode(self.vae, pictures)
        vae = self.vae
        encoder = self._encoder_of(model)
        pipeline = FlexTokPipeline(vae, encoder, model.decoder)
        pipeline.set_progress_bar_config(disable=True)
        ids = pipeline.tokenize(latents.to(vae.device))
        metrics = {"codes_used": len(ids.unique()) / encoder.quantizer.num_codes}
        rows, options = [pictures], FlowOptions(steps=10, guidance_scale=1.0)
        for stop in (stop for stop in SHOWN_STOPS if stop <= ids.shape[1]):
            noise = torch.Generator().manual_seed(5)
            seen = pipeline.sample_latents(list(ids), stop, options, noise)
            seen = pipeline.decode_latents(seen).clamp(-1, 1).cpu()
            squared = (seen - pictures).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
            metrics[f"psnr_{stop}"] = float((10 * torch.log10(4 / squared)).mean())
            rows.append(seen)
        sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        pixels = ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "sheet.png")
        return metrics


class EncoderTask(TokenizerTask):
    """The encoder alone, by what can be read from its tokens: three times as fast as with the decoder."""

    def __init__(self, parts: Path, eyes: Path, cache: Path, **options: Any) -> None:
        super().__init__(parts, eyes, cache, **options)
        del self.model.decoder, self.model.repa, self.model.words
        self.unseen = {
            part: FeatureStream(
                LatentStream(self.vae, cache, HELD_OUT, replace(DRAWN, held_out=held_out), HELD_OUT_SEED),
                self.stream.eyes,
                cache,
            )
            for part, held_out in (("seen", False), ("held_out", True))
        }

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents, features, scenes = self.stream.batch(first_sample, batch)
        most = self.model.encoder.config.num_registers
        count = token_count(first_sample // batch, self.seed, most)
        if Random(f"free/{self.seed}/{first_sample}").random() < FREE_SHARE:
            count = min(FREE, most)
        shown = self._shown(features, scenes, latent_weights(scenes, self.object_weight))
        _, error, figures = self._tokens(first_sample, latents, count, shown)
        return error, figures

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """What is read from new drawings of pairs that training draws, and of pairs that it doesn't."""
        metrics = {}
        for part, stream in self.unseen.items():
            latents, features, scenes = stream.batch(0, HELD_OUT)
            shown = self._shown(features, scenes, latent_weights(scenes, self.object_weight))
            codes = model.encoder.quantizer.quantize(model.encoder(latents.to(shown.features.device)))[0]
            metrics[f"{part}_read"] = float(model.reader(codes, latents.to(codes.device)))
            for stop in (stop for stop in SHOWN_STOPS if stop <= min(FREE, codes.shape[1])):
                counts = torch.full((HELD_OUT,), stop, device=codes.device)
                told = (shown.labels, shown.features, shown.weights)
                metrics[f"{part}_kind_{stop}"] = model.gist(codes, counts, *told)[1]
        return metrics


class DecoderTask(TokenizerTask):
    """The decoder alone, on a finished encoder's tokens: tokens that were made before keep their meaning.

    Args:
        tokenizer: published folder whose encoder is used.
    """

    reading = 0

    def __init__(self, parts: Path, eyes: Path, cache: Path, tokenizer: Path, **options: Any) -> None:
        super().__init__(parts, eyes, cache, **options)
        device, _ = runtime_device()
        self.encoder = FlexTokEncoderModel.from_pretrained(tokenizer / "encoder").to(device).eval()
        self.encoder.requires_grad_(False)
        self.tokens = TokenStream(self.stream.latents, self.encoder, cache)
        del self.model.encoder, self.model.reader, self.model.gist, self.model.patches

    def _encoder_of(self, model: nn.Module) -> Any:
        return self.encoder

    def _tokens(
        self, first_sample: int, latents: torch.Tensor, count: int, shown: Shown
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        ids = self.tokens.batch(first_sample, len(latents))[:, :count]
        codes = self.encoder.quantizer.codes(ids).to(runtime_device()[0])
        return codes, codes.new_zeros(()), {}


def unused_codes(z: torch.Tensor) -> torch.Tensor:
    """How little quantiser inputs `[B, k, n]` differ over a batch, and how far they are saturated.

    Without it all inputs drift into the corners of the quantiser, where nothing has a slope, and a handful
    of codes is left.
    """
    z = z.float()
    alike = F.relu(0.6 - (z.tanh().var(0) + 1e-4).sqrt()).mean()
    return alike + F.relu(z.abs() - 2).square().mean()


def held_out_drawings(count: int, held_out: bool = True) -> list[np.ndarray]:
    """Drawings `[128, 128, 3]` uint8 that no training sees."""
    mix = SceneMix(counts=DRAWN.counts, sized=DRAWN.sized, held_out=held_out)
    scenes = [sample_scene(sample_rng(HELD_OUT_SEED, index), mix) for index in range(count)]
    return [draw_scene(scene, TILE, TILE) for scene in scenes]


def latent_weights(scenes: list[Scene], weight: float) -> torch.Tensor:
    """`[B, 16, 16]`: `weight` on latents that an object's box touches, 1 elsewhere, scaled to mean 1."""
    side = 2 * GRID
    out = torch.ones(len(scenes), side, side)
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            left, top, right, bottom = (value * side for value in item.box)
            rows = slice(max(int(top), 0), max(int(np.ceil(bottom)), 0))
            out[row, rows, max(int(left), 0) : max(int(np.ceil(right)), 0)] = weight
    return out / out.mean(dim=(1, 2), keepdim=True)


def split_state(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Encoder's and decoder's part of a pair's state dict, in float32."""
    return {
        part: {
            name.removeprefix(f"{part}."): value.float()
            for name, value in state.items()
            if name.startswith(f"{part}.")
        }
        for part in PARTS
    }
