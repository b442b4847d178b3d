"""Recipe of the text encoder of `storybook-video`: words of motion.

CLIP learned from stills, and no still shows whether something moves to the left or to the right: a linear
reader of its states guesses which (70 % on drawn clips' captions; one that trains the last layer too, 71 %).
No denoiser can follow words that it isn't told. Here the whole tower learns from captions alone to say who
moves where, and to say everything else as before, since image layers read its states.

    python -m pipelines.vidrd.train text --state DIR --parts assets/weights/storybook-sd --threads 1
    python -m pipelines.vidrd.publish text --state DIR --folder assets/weights/storybook-video \
        --parts assets/weights/storybook-sd

Five minutes of one core. The denoiser is trained with it afterwards (`video-attention --text FOLDER`).
"""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.storybook.clips import SLOW_WAYS, Clip, ClipMix, clip_caption, sample_clip
from pipelines.storybook.dataset import sample_rng
from pipelines.training.loop import LoopConfig

# what a caption can say of motion
SAYINGS = (
    "drift left", "drift right", "drift up", "drift down", "slowly", "fall", "bounce", "turn left",
    "turn right", "grow", "pan left", "pan right", "zoom in", "zoom away",
)  # fmt: skip
SIDEWAYS = SAYINGS.index("drift left"), SAYINGS.index("drift right")
LOYALTY = 0.01  # weight of the squared distance to the states before
HELD_OUT_SEED = 900_063
HELD_OUT = 400  # captions


def text_recipe() -> LoopConfig:
    """Words of sides are learned last: at half the length they are told apart in 96 % of captions."""
    return LoopConfig(
        samples=32_000, batch=32, lr=6e-4, warmup=30, decay_from=0.6, ema_decay=0.99, weight_decay=0.0,
        evaluate_every_s=900,
    )  # fmt: skip


def sayings(clip: Clip) -> list[str]:
    """Which of `SAYINGS` are true of a clip."""
    out = []
    for motion in clip.motions:
        if motion.kind != "still":
            out.append("fall" if motion.kind == "fall" else f"{motion.kind} {motion.direction}".strip())
        if motion.kind == "drift" and motion.amount <= SLOW_WAYS[1]:
            out.append("slowly")
    if clip.camera.kind != "still":
        out.append(f"{clip.camera.kind} {clip.camera.direction}")
    return out


class MotionReader(nn.Module):
    """Attention with learned queries over a text's states, then a score for each of `SAYINGS`."""

    def __init__(self, width: int, heads: int = 8, head_dim: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(0.1 * torch.randn(heads, head_dim))
        self.to_k, self.to_v = nn.Linear(width, head_dim), nn.Linear(width, head_dim)
        self.scores = nn.Linear(heads * head_dim, len(SAYINGS))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[B, L, J]` to logits `[B, S]`."""
        states = self.norm(states)
        weights = (self.queries @ self.to_k(states).mT / self.queries.shape[-1] ** 0.5).softmax(-1)
        return self.scores((weights @ self.to_v(states)).flatten(1))


class TextTask:
    """Captions of drawn clips; the reader is needed in training only.

    Args:
        parts: model folder of `storybook-sd` (text encoder, tokenizer).
    """

    def __init__(self, parts: Path, seed: int = 63) -> None:
        torch.manual_seed(seed)
        self.tokenizer = CLIPTokenizer.from_pretrained(parts / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(parts / "text_encoder")
        self.before = copy.deepcopy(encoder).eval().requires_grad_(False)
        reader = MotionReader(encoder.config.hidden_size)
        self.model: nn.Module = nn.ModuleDict({"text_encoder": encoder, "reader": reader})
        self.seed = seed

    def starting_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Weights of a published text encoder, with a fresh reader."""
        from pipelines.training.command import load_weights

        stored = load_weights(folder / "text_encoder")
        return {
            **self.model.state_dict(),
            **{f"text_encoder.{name}": value for name, value in stored.items()},
        }

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        ids, truth = self._captions(self.seed, first_sample, batch)
        logits, distance = self._read(self.model, ids)
        error = F.binary_cross_entropy_with_logits(logits, truth)
        figures = {"error": float(error.detach()), "distance": float(distance.detach())}
        return error + LOYALTY * distance, figures

    def _captions(self, seed: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `[B, 77]`, and which sayings are true, `[B, S]`."""
        mix, texts, truth = ClipMix(), [], torch.zeros(count, len(SAYINGS))
        for row in range(count):
            rng = sample_rng(seed, first + row)
            clip = sample_clip(rng, mix)
            texts.append(clip_caption(clip, rng).text)
            for saying in sayings(clip):
                truth[row, SAYINGS.index(saying)] = 1.0
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return tokens.input_ids, truth

    def _read(self, model: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the sayings, and the mean squared distance to the states before."""
        encoder, reader = model["text_encoder"], model["reader"]
        device = next(encoder.parameters()).device
        states = encoder(input_ids=ids.to(device)).last_hidden_state
        before = self.before(input_ids=ids).last_hidden_state.to(device)
        return reader(states).float().cpu(), (states.float() - before).square().mean().cpu()

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Shares of held-out captions that are read right: in all they say, and in left and right."""
        ids, truth = self._captions(HELD_OUT_SEED, 0, HELD_OUT)
        logits, distance = self._read(model, ids)
        right = (logits > 0) == truth.bool()
        return {
            "read_right": float(right.all(1).float().mean()),
            "sides_right": float(right[:, SIDEWAYS].all(1).float().mean()),
            "distance": float(distance),
        }
