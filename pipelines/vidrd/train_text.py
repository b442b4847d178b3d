"""Recipe of the text encoder of `storybook-video`: words of motion.

CLIP learned from stills, and no still shows whether something moves to the left or to the right: a reader of
its states guesses which (72 % of drawn clips' captions; 71 % where its last layer is trained along). No
denoiser can follow words that it isn't told. Here the whole tower learns from captions alone to say who moves
where: each of `SAYINGS` has a vector of its own, which true ones add to the states behind the text (most of
what a denoiser reads is padding). All states before stay as they are, since image layers read them.

    python -m pipelines.vidrd.train text --state DIR --parts assets/weights/storybook-sd --threads 1
    python -m pipelines.vidrd.publish text --state DIR --folder assets/weights/storybook-video \
        --parts assets/weights/storybook-sd

Three minutes of one core. The denoiser is trained with it afterwards (`video-attention --text FOLDER`).
"""

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.storybook.clips import SLOW_WAYS, Clip, ClipMix, clip_caption, sample_clip
from pipelines.storybook.dataset import sample_rng
from pipelines.training.command import load_weights
from pipelines.training.loop import LoopConfig

# what a caption can say of motion
SAYINGS = (
    "drift left", "drift right", "drift up", "drift down", "slowly", "fall", "bounce", "turn left",
    "turn right", "grow", "pan left", "pan right", "zoom in", "zoom away",
)  # fmt: skip
SIDEWAYS = SAYINGS.index("drift left"), SAYINGS.index("drift right")
LENGTH = 6.0  # of a saying's vector; states are about 18 long
HELD_OUT_SEED = 900_063
HELD_OUT = 400  # captions


def text_recipe() -> LoopConfig:
    return LoopConfig(
        samples=32_000, batch=32, lr=1e-3, warmup=30, decay_from=0.5, ema_decay=0.99, weight_decay=0.0,
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


class TextTask:
    """Captions of drawn clips, and the states that they should have.

    Args:
        parts: model folder of `storybook-sd` (text encoder, tokenizer).
    """

    def __init__(self, parts: Path, seed: int = 63) -> None:
        torch.manual_seed(seed)
        self.tokenizer = CLIPTokenizer.from_pretrained(parts / "tokenizer")
        self.model: nn.Module = CLIPTextModel.from_pretrained(parts / "text_encoder")
        self.before = copy.deepcopy(self.model).eval().requires_grad_(False)
        width = self.before.config.hidden_size
        vectors = torch.linalg.qr(torch.randn(width, max(width, len(SAYINGS))))[0][:, : len(SAYINGS)].mT
        self.vectors = LENGTH * vectors
        self.seed = seed

    def starting_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Weights of a published text encoder."""
        return load_weights(folder / "text_encoder")

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        ids, truth = self._captions(self.seed, first_sample, batch)
        states, before, is_behind = self._read(self.model, ids)
        error = (states - before - is_behind * (truth @ self.vectors)[:, None]).square().mean()
        return error, {"change": float((states.detach() - before).square().mean())}

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

    def _read(self, model: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """States now and before, `[B, 77, J]`, and which of them lie behind the text, `[B, 77, 1]`."""
        device = next(model.parameters()).device
        states = model(input_ids=ids.to(device)).last_hidden_state.float().cpu()
        with torch.no_grad():
            before = self.before(input_ids=ids).last_hidden_state
        is_end = ids == self.tokenizer.eos_token_id
        return states, before, (is_end.cumsum(1) > 0).float()[..., None]

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Shares of held-out captions whose states say what is true: all of it, and of left and right."""
        ids, truth = self._captions(HELD_OUT_SEED, 0, HELD_OUT)
        states, before, is_behind = self._read(model, ids)
        change = (states - before) * is_behind
        mean = change.sum(1) / is_behind.sum(1)
        right = (mean @ self.vectors.mT > self.vectors.square().sum(1) / 2) == truth.bool()
        return {
            "read_right": float(right.all(1).float().mean()),
            "sides_right": float(right[:, SIDEWAYS].all(1).float().mean()),
            "change_of_words": float(((states - before) * (1 - is_behind)).square().mean()),
        }
