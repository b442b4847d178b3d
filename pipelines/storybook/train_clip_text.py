"""Recipe of the CLIP text tower: its pooled vector must tell kinds, colours, patterns and place of a caption.

Kinds and colours are asked for apart: a head that asks for pairs learns never to answer with a held-out pair
(measured: 94 % of the seen captions right, 22 % of the held-out ones). Binding is the T5 encoder's part.
Trained on text alone, so it is ready in minutes; the contrastive recipe then trains the vision tower against
it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextModel

from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.scene import SceneMix, sample_scene
from pipelines.storybook.text import CLIP_MAX_LENGTH, build_clip, build_clip_tokenizer
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES
from pipelines.training.loop import LoopConfig, runtime_device

HELD_OUT_SEED = 900_007
NAMED = (*KINDS, *COLOURS, *PATTERNS[1:])
SHORT = 32  # most captions fit; attention is causal, so padding behind the end changes nothing


def clip_text_recipe() -> LoopConfig:
    """About eight minutes on one core."""
    return LoopConfig(
        samples=70_000, batch=48, lr=1.5e-3, warmup=50, decay_from=0.5, ema_decay=0.998, weight_decay=0.0,
        evaluate_every_s=150,
    )  # fmt: skip


class PooledReader(nn.Module):
    """The text tower and the linear head that is thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_clip_tokenizer()
        self.text = CLIPTextModel(build_clip(self.tokenizer).config.text_config)
        width = self.text.config.hidden_size
        self.head = nn.Linear(width, len(NAMED) + len(PLACES) + 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.text(input_ids=ids).pooler_output)


class CLIPTextTask:
    """Which words are there (binary cross-entropy), the place and the number of objects (cross-entropy)."""

    def __init__(self, seed: int = 33) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = PooledReader()
        self.seed = seed

    def _figures(
        self, seed: int, first: int, count: int, mix: SceneMix
    ) -> tuple[torch.Tensor, dict[str, float]]:
        device, _ = runtime_device()
        texts = []
        words = torch.zeros(count, len(NAMED))
        places, counts = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
        for row in range(count):
            rng = sample_rng(seed, first + row)
            scene = sample_scene(rng, mix)
            texts.append(caption(scene, rng, 0.0).text)
            for item in scene.objects:
                for word in {item.kind, item.colour, item.pattern} - {"plain"}:
                    words[row, NAMED.index(word)] = 1
            places[row], counts[row] = PLACES.index(scene.place), len(scene.objects) - 1
        tokens = self.model.tokenizer(
            texts, padding="max_length", truncation=True, max_length=SHORT, return_tensors="pt"
        )
        assert SHORT <= CLIP_MAX_LENGTH
        out = self.model(tokens.input_ids.to(device)).float()
        named, place, number = out.split([len(NAMED), len(PLACES), 3], dim=1)
        words, places, counts = words.to(device), places.to(device), counts.to(device)
        word_loss = F.binary_cross_entropy_with_logits(named, words, reduction="none").sum(1).mean()
        loss = word_loss + F.cross_entropy(place, places) + F.cross_entropy(number, counts)
        exact = ((named > 0) == (words > 0))[:, : len(KINDS) + len(COLOURS)].all(1).float().mean()
        return loss, {"all_words": float(exact), "place": float((place.argmax(1) == places).float().mean())}

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        return self._figures(self.seed, first_sample, batch, SceneMix())

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        loss, figures = self._figures(HELD_OUT_SEED, 0, 512, SceneMix(held_out=True))
        return {"held_out_loss": float(loss), **figures}
