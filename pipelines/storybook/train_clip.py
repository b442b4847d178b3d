"""Recipe of `storybook-clip`: contrastive pictures and captions, each scene's words once in a batch.

The text tower comes from its own recipe and stays as it is (only its projection learns): the pipelines are
conditioned by the very same tower. The vision tower's patches must also tell the scene (`SceneProbe`), which
teaches them to see long before the contrast of whole pictures would.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.probe import SceneProbe, scene_targets
from pipelines.storybook.scene import Scene, SceneMix, sample_scene
from pipelines.storybook.text import CLIP_MAX_LENGTH, build_clip
from pipelines.storybook.verify import Share
from pipelines.training.loop import LoopConfig, runtime_device

HELD_OUT_SEED = 900_005
POOL = 12_000  # drawings kept in memory; each is seen with fresh captions


def clip_recipe() -> LoopConfig:
    """About fifteen minutes on one core."""
    return LoopConfig(
        samples=120_000, batch=64, lr=1e-3, muon_lr=2e-3, warmup=100, decay_from=0.5, ema_decay=0.998,
        adamw_names=("embedding", "logit_scale", "probe"), evaluate_every_s=240,
    )  # fmt: skip


def scene_words(scene: Scene) -> str:
    """What a caption that names place and objects would say, in a fixed order."""
    return scene.place + "|" + "|".join(sorted(f"{o.colour} {o.kind}" for o in scene.objects))


class CLIPTask:
    """Symmetric cross-entropy over a batch.

    Args:
        model, tokenizer: whole CLIP and its tokenizer; the text tower is frozen.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, seed: int = 31) -> None:
        torch.manual_seed(seed)
        self.published, self.tokenizer = model, tokenizer
        model.text_model.requires_grad_(False)
        self.probe = SceneProbe(model.config.vision_config.hidden_size)
        self.model: nn.Module = nn.ModuleDict({"clip": model, "probe": self.probe})
        self.seed, self.scenes = seed, SceneMix()
        self._pool: dict[int, tuple[Scene, torch.Tensor]] = {}

    @classmethod
    def from_parts(cls, parts: Path) -> "CLIPTask":
        """A new vision tower beside the text tower of a model folder."""
        tokenizer = CLIPTokenizer.from_pretrained(parts / "tokenizer")
        torch.manual_seed(31)
        model = build_clip(tokenizer)
        text = CLIPTextModel.from_pretrained(parts / "text_encoder")
        model.text_model.load_state_dict(text.state_dict())
        # PyTorch's CPU flash kernel is slow backward on short sequences
        model.set_attn_implementation("sdpa" if torch.cuda.is_available() else "eager")
        return cls(model, tokenizer)

    @classmethod
    def published_at(cls, folder: Path) -> "CLIPTask":
        """A finished model, to be measured."""
        return cls(CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder))

    def _sample(self, seed: int, index: int, mix: SceneMix) -> tuple[Scene, torch.Tensor]:
        slot = index % POOL
        if seed == self.seed and slot in self._pool:
            return self._pool[slot]
        scene = sample_scene(sample_rng(seed, slot), mix)
        entry = scene, torch.from_numpy(draw_scene(scene, 128, 128).copy())
        if seed == self.seed:
            self._pool[slot] = entry
        return entry

    def batch(
        self, seed: int, first: int, count: int, mix: SceneMix
    ) -> tuple[list[str], torch.Tensor, list[Scene]]:
        """Captions, pictures `[count, 3, 128, 128]` and scenes that all name different things."""
        texts: list[str] = []
        pictures: list[NDArray[np.uint8]] = []
        scenes: list[Scene] = []
        taken: set[str] = set()
        index = first
        while len(texts) < count:
            scene, picture = self._sample(seed, index, mix)
            words = scene_words(scene)
            if words not in taken:
                taken.add(words)
                texts.append(caption(scene, sample_rng(seed + 1, index + first), 0.05).text)
                pictures.append(picture.numpy())
                scenes.append(scene)
            index += 1
        return texts, to_tensor(pictures), scenes

    def scores(self, texts: list[str], pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled cosines `[pictures, texts]` and the patches' features `[pictures, 64, C]`."""
        device, _ = runtime_device()
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=CLIP_MAX_LENGTH, return_tensors="pt"
        )
        out = self.published(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            pixel_values=pixels.to(device, self.published.logit_scale.dtype),
        )
        return out.logits_per_image.float(), out.vision_model_output.last_hidden_state[:, 1:]

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        texts, pixels, scenes = self.batch(self.seed, first_sample, batch, self.scenes)
        scores, features = self.scores(texts, pixels)
        target = torch.arange(batch, device=scores.device)
        contrast = 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))
        shown = [(scene, (0.0, 0.0, 1.0, 1.0)) for scene in scenes]
        side = round(features.shape[1] ** 0.5)
        words, places = (part.to(scores.device) for part in scene_targets(shown, side))
        read = self.probe(features, words, places).mean()
        top1 = float((scores.argmax(1) == target).float().mean())
        return contrast + 0.5 * read, {
            "contrast": float(contrast.detach()),
            "probe": float(read.detach()),
            "top1": top1,
        }

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        return {"held_out_top1_of_64": retrieval(self, 4).value}


@torch.no_grad()
def retrieval(task: CLIPTask, groups: int) -> Share:
    """Top-1 of 64 held-out captions with place and two objects, pictures to texts and texts to pictures."""
    two = SceneMix(counts=(0.0, 1.0, 0.0), groups=0.0, held_out=True)
    answers: list[bool] = []
    for group in range(groups):
        texts, pixels, _ = task.batch(HELD_OUT_SEED, group * 1000, 64, two)
        scores, _ = task.scores(texts, pixels)
        target = torch.arange(64, device=scores.device)
        answers += [*(scores.argmax(1) == target).tolist(), *(scores.argmax(0) == target).tolist()]
    return Share.of(answers)
