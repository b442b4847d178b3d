"""Recipe of `storybook-clip`: contrastive pictures and captions, each scene's words once in a batch."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, sample_scene
from pipelines.storybook.text import CLIP_MAX_LENGTH, build_clip, build_clip_tokenizer
from pipelines.training.loop import LoopConfig, runtime_device

HELD_OUT_SEED = 900_005
POOL = 12_000  # drawings kept in memory; each is seen with fresh captions


def clip_recipe() -> LoopConfig:
    """About fifteen minutes on one core."""
    return LoopConfig(
        samples=120_000, batch=64, lr=1.5e-3, muon_lr=2e-3, warmup=100, decay_from=0.5, ema_decay=0.998,
        adamw_names=("embedding", "logit_scale"), evaluate_every_s=240,
    )  # fmt: skip


def scene_words(scene: Scene) -> str:
    """What a caption that names place and objects would say, in a fixed order."""
    return scene.place + "|" + "|".join(sorted(f"{o.colour} {o.kind}" for o in scene.objects))


class CLIPTask:
    """Symmetric cross-entropy over a batch."""

    def __init__(self, seed: int = 31) -> None:
        torch.manual_seed(seed)
        self.tokenizer = build_clip_tokenizer()
        self.model: nn.Module = build_clip(self.tokenizer)
        self.seed, self.scenes = seed, SceneMix()
        self._pool: dict[int, tuple[Scene, torch.Tensor]] = {}

    def _sample(self, seed: int, index: int, mix: SceneMix) -> tuple[Scene, torch.Tensor]:
        slot = index % POOL
        if seed == self.seed and slot in self._pool:
            return self._pool[slot]
        scene = sample_scene(sample_rng(seed, slot), mix)
        entry = scene, torch.from_numpy(draw_scene(scene, 128, 128).copy())
        if seed == self.seed:
            self._pool[slot] = entry
        return entry

    def _scores(self, seed: int, first: int, count: int, mix: SceneMix) -> torch.Tensor:
        device, _ = runtime_device()
        texts: list[str] = []
        pictures: list[NDArray[np.uint8]] = []
        taken: set[str] = set()
        index = first
        while len(texts) < count:
            scene, picture = self._sample(seed, index, mix)
            words = scene_words(scene)
            if words not in taken:
                taken.add(words)
                rng = sample_rng(seed + 1, index + first)
                texts.append(caption(scene, rng, 0.05).text)
                pictures.append(picture.numpy())
            index += 1
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=CLIP_MAX_LENGTH, return_tensors="pt"
        )
        dtype = self.model.logit_scale.dtype
        pixels = to_tensor(pictures).to(device, dtype)
        out = self.model(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            pixel_values=pixels,
        )
        return out.logits_per_image.float()

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        scores = self._scores(self.seed, first_sample, batch, self.scenes)
        target = torch.arange(batch, device=scores.device)
        loss = 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))
        return loss, {"top1": float((scores.argmax(1) == target).float().mean())}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        right = []
        two = SceneMix(counts=(0.0, 1.0, 0.0), groups=0.0, held_out=True)
        for group in range(4):
            scores = self._scores(HELD_OUT_SEED, group * 1000, 64, two)
            target = torch.arange(64, device=scores.device)
            right.append(
                0.5
                * ((scores.argmax(1) == target).float().mean() + (scores.argmax(0) == target).float().mean())
            )
        return {"held_out_top1_of_64": float(torch.stack(right).mean())}
