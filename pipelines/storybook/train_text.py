"""Recipe of Storybook's T5 encoder: read the scene out of the caption.

The encoder is trained on text alone. Small linear heads must tell, at each noun, kind, colour, pattern, size
and where the object stands, and from the mean over words the place and the number of objects. What the
diffusion model later gets is therefore a state per word in which those facts are bound to their noun. Padding
is random and unmasked, as stock `FluxPipeline` feeds it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.scene import Scene, SceneMix, sample_scene
from pipelines.storybook.text import build_t5, build_t5_tokenizer
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES
from pipelines.training.loop import LoopConfig, runtime_device

SIZE_WORDS = ("small", "medium", "large")
HELD_OUT_SEED = 900_003


def t5_recipe() -> LoopConfig:
    """About eight minutes on one core."""
    return LoopConfig(
        samples=120_000, batch=48, lr=1.5e-3, warmup=50, decay_from=0.6, ema_decay=0.998,
        weight_decay=0.0, adamw_names=("shared", "relative_attention_bias", "head"), evaluate_every_s=150,
    )  # fmt: skip


class SceneReader(nn.Module):
    """T5 encoder and the linear heads that are thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_t5_tokenizer()
        self.encoder = build_t5(self.tokenizer)
        width = self.encoder.config.d_model
        self.object_head = nn.Linear(width, len(KINDS) + len(COLOURS) + len(PATTERNS) + len(SIZE_WORDS) + 2)
        self.scene_head = nn.Linear(width, len(PLACES) + 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.encoder(input_ids=ids).last_hidden_state


class T5Task:
    """Cross-entropy on attributes and squared error on positions, all from text."""

    def __init__(self, seed: int = 21) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = SceneReader()
        self.seed, self.scenes = seed, SceneMix()

    def _batch(self, seed: int, first: int, count: int, mix: SceneMix) -> tuple[torch.Tensor, list, list]:
        texts, marks, scenes = [], [], []
        # one form per batch: long captions in every batch would pad all others to their length
        long_share = float(sample_rng(seed + 2, first).random() < 0.12)
        for index in range(first, first + count):
            rng = sample_rng(seed, index)
            scene = sample_scene(rng, mix)
            written = caption(scene, rng, long_share)
            text = written.text
            if rng.random() < 0.3:
                text = text[0].upper() + text[1:]
            texts.append(text)
            marks.append(written.mentions)
            scenes.append(scene)
        tokens = self.model.tokenizer(texts, return_offsets_mapping=True)
        longest = max(len(ids) for ids in tokens["input_ids"])
        pad = sample_rng(seed + 1, first).choice((0, 0, 0, 4, 4, 8, 8, 16, 16, 96))
        ids = torch.zeros(count, min(longest + pad, 512), dtype=torch.long)
        places = []
        for row, (sequence, offsets) in enumerate(
            zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
        ):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            for mention in marks[row]:
                at = next(
                    i for i, (a, b) in enumerate(offsets) if a <= mention.start < b or a == mention.start < b
                )
                places.append((row, at, scenes[row].objects[mention.index]))
        return ids, places, scenes

    def _figures(
        self, first: int, count: int, seed: int, mix: SceneMix
    ) -> tuple[torch.Tensor, dict[str, float]]:
        device, _ = runtime_device()
        ids, places, scenes = self._batch(seed, first, count, mix)
        states = self.model(ids.to(device)).float()
        model = self.model
        rows = torch.tensor([p[0] for p in places]), torch.tensor([p[1] for p in places])
        nouns = model.object_head(states[rows].to(model.object_head.weight.dtype)).float()
        pieces = nouns.split([len(KINDS), len(COLOURS), len(PATTERNS), len(SIZE_WORDS), 2], dim=1)
        targets = [
            torch.tensor([names.index(getattr(p[2], field)) for p in places], device=states.device)
            for names, field in (
                (KINDS, "kind"),
                (COLOURS, "colour"),
                (PATTERNS, "pattern"),
                (SIZE_WORDS, "size"),
            )
        ]
        losses = [F.cross_entropy(piece, target) for piece, target in zip(pieces[:4], targets, strict=True)]
        where = torch.tensor([(p[2].x, p[2].y) for p in places], device=states.device)
        position = 4 * (pieces[4] - where).square().mean()
        real = (ids != 0).to(states.device)
        mean = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        overall = model.scene_head(mean.to(model.scene_head.weight.dtype)).float()
        place = F.cross_entropy(overall[:, : len(PLACES)], _indices(scenes, states.device))
        counts = torch.tensor([len(scene.objects) - 1 for scene in scenes], device=states.device)
        count_loss = F.cross_entropy(overall[:, len(PLACES) :], counts)
        quiet = states[~real].square().mean() if (~real).any() else states.new_zeros(())
        loss = torch.stack(losses).sum() + 2 * position + place + count_loss + 0.05 * quiet
        right = (pieces[1].argmax(1) == targets[1]).float().mean()
        return loss, {
            "colour": float(right),
            "position_error": float((pieces[4].detach() - where).abs().mean()),
            "place": float(
                (overall[:, : len(PLACES)].argmax(1) == _indices(scenes, states.device)).float().mean()
            ),
        }

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        return self._figures(first_sample, batch, self.seed, self.scenes)

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        loss, figures = self._figures(0, 512, HELD_OUT_SEED, SceneMix(held_out=True))
        return {"held_out_loss": float(loss), **figures}


def _indices(scenes: list[Scene], device: torch.device) -> torch.Tensor:
    return torch.tensor([PLACES.index(scene.place) for scene in scenes], device=device)
