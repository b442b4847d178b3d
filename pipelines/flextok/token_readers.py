"""What tokens and patches are taught to tell: readers that exist in training alone.

A decoder's error hardly falls when a token names an object's kind, before the decoder can draw that kind:
left to themselves, the first tokens learn colours and places only. Short prefixes and generators live on
kinds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.flextok.blocks import Trunk, normalize, patchify
from pipelines.flextok.token_places import FREE, place_order, token_rounds
from pipelines.storybook.latents import GRID
from pipelines.storybook.scene import Scene, is_held_out_pair
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES

FEATURES = 128  # channels of the eyes at 16 px
GIST_WIDTH = 512
WORDS = (KINDS, COLOURS, PATTERNS)
WORD_WEIGHTS = (1.0, 1.0, 0.3)
WHERE_WEIGHT, PLACE_WEIGHT, SEEN_WEIGHT, PATCH_WORDS_WEIGHT = 0.25, 0.15, 0.25, 0.3
CELLS = GRID * GRID
TYPICAL_SCALE = 0.17


@dataclass(frozen=True)
class Labels:
    """What stands where in a batch; N objects in all.

    Attributes:
        rows: picture of each object, `[N]`. cells: cell of its centre, row by row, `[N]`, 0 to 63.
        words: indexes of kind, colour and pattern, `[N, 3]`.
        scales: twice the logarithm of the size over a typical one, `[N]`.
        places: index of each picture's place, `[B]`.
    """

    rows: torch.Tensor
    cells: torch.Tensor
    words: torch.Tensor
    scales: torch.Tensor
    places: torch.Tensor

    def to(self, device: torch.device) -> "Labels":
        """The same on a device."""
        return Labels(**{name: value.to(device) for name, value in vars(self).items()})


def scene_labels(scenes: Sequence[Scene]) -> Labels:
    """Labels of scenes of aspect 1; a centre outside of the picture counts to the nearest cell."""
    found = [(row, item) for row, scene in enumerate(scenes) for item in scene.objects]
    cells = [[min(max(int(at * GRID), 0), GRID - 1) for at in (item.y, item.x)] for _, item in found]
    words = [
        [KINDS.index(item.kind), COLOURS.index(item.colour), PATTERNS.index(item.pattern)]
        for _, item in found
    ]
    return Labels(
        torch.tensor([row for row, _ in found], dtype=torch.long),
        torch.tensor([row * GRID + column for row, column in cells], dtype=torch.long),
        torch.tensor(words, dtype=torch.long).reshape(-1, len(WORDS)),
        torch.tensor([2 * math.log(item.scale / TYPICAL_SCALE) for _, item in found]),
        torch.tensor([PLACES.index(scene.place) for scene in scenes], dtype=torch.long),
    )


@contextmanager
def middle_patches(trunk: Trunk) -> Iterator[list[torch.Tensor]]:
    """Collects the patches `[B, P, dim]` after a trunk's middle block; they come before all tokens."""
    seen: list[torch.Tensor] = []
    handle = trunk.blocks[len(trunk.blocks) // 2].register_forward_hook(
        lambda module, inputs, output: seen.append(output[:, :CELLS])
    )
    try:
        yield seen
    finally:
        handle.remove()


class PlaceReader(nn.Module):
    """Reads a patch's latents linearly from the codes of the free tokens and of all tokens at its place.

    Every round over the places has weights of its own, so that the rounds have reason to tell different
    things.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.patch, most = tuple(config["patch_size"]), config["num_registers"]
        self.free, self.rounds = min(FREE, most), token_rounds(most)
        self.register_buffer("order", torch.tensor(place_order()).argsort(), persistent=False)
        digits, values = len(config["levels"]), config["in_channels"] * self.patch[0] * self.patch[1]
        self.overall = nn.Linear(self.free * digits, CELLS * values)
        self.read = nn.Linear(max(self.rounds, 1) * digits, values, bias=False)

    def forward(self, codes: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the reading from codes `[B, k, n]` of latents `[B, C, H, W]`.

        Tokens that are missing read as 0.
        """
        codes = codes.to(self.read.weight.dtype)
        told = F.pad(codes[:, : self.free], (0, 0, 0, max(self.free - codes.shape[1], 0)))
        read = self.overall(told.flatten(1)).unflatten(1, (CELLS, -1))  # [B, P, C p p]
        placed = codes[:, self.free :]
        if placed.shape[1]:
            placed = F.pad(placed, (0, 0, 0, self.rounds * CELLS - placed.shape[1]))
            placed = placed.unflatten(1, (self.rounds, -1))[:, :, self.order]  # places row by row
            read = read + self.read(placed.transpose(1, 2).flatten(2))
        wanted = patchify(latents, self.patch).flatten(1, 2)
        return (read.float() - wanted.float()).square().mean()


class WordReader(nn.Module):
    """Reads an object's kind, colour, pattern and size linearly from a vector.

    A word is only told apart from words that training draws with the other one: a combination that is held
    out must not be learned to be impossible.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [*map(len, WORDS), 1]
        self.words = nn.Linear(width, sum(self.sizes))
        unseen = [[is_held_out_pair(colour, kind) for colour in COLOURS] for kind in KINDS]
        self.register_buffer("unseen", torch.tensor(unseen), persistent=False)

    def forward(self, vectors: torch.Tensor, labels: Labels) -> tuple[torch.Tensor, float]:
        """Error of what is read from `[N, width]`, and the share of kinds that are right of all kinds.

        The error is the words' weighted cross-entropy plus the squared error of the size.
        """
        if not len(vectors):
            return vectors.float().sum(), 0.0
        *answers, scales = self.words(vectors).float().split(self.sizes, dim=1)
        kinds, colours, _ = words = labels.words.unbind(1)
        right = float((answers[0].detach().argmax(1) == kinds).float().mean())
        answers[0] = _without(answers[0], self.unseen.T[colours], kinds)
        answers[1] = _without(answers[1], self.unseen[kinds], colours)
        error = (scales[:, 0] - labels.scales).square().mean()
        for weight, answer, word in zip(WORD_WEIGHTS, answers, words, strict=True):
            error = error + weight * F.cross_entropy(answer, word)
        return error, right


def _without(answers: torch.Tensor, unseen: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Scores `[N, words]`: no chance for words that are unseen beside the other one."""
    others = unseen & (torch.arange(answers.shape[1], device=answers.device) != right[:, None])
    return answers.masked_fill(others, float("-inf"))


class GistReader(nn.Module):
    """Reads what stands where, and what the eyes see in every cell, from the first free tokens alone."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.free = min(FREE, config["num_registers"])
        digits, width = len(config["levels"]), GIST_WIDTH
        self.layers = nn.Sequential(
            nn.Linear(self.free * (digits + 1), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.asked = nn.Embedding(CELLS, width)  # objects are asked for by the cell they stand in
        self.answer = nn.Sequential(nn.Linear(width, width), nn.SiLU(), WordReader(width))
        self.where, self.place = nn.Linear(width, CELLS), nn.Linear(width, len(PLACES))
        self.features = nn.Linear(width, CELLS * FEATURES)

    def forward(
        self,
        codes: torch.Tensor,
        counts: torch.Tensor,
        labels: Labels,
        features: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, float]:
        """Error of the reading, and the share of kinds that are right.

        Args:
            codes: `[B, k, n]`. counts: how many of them are read, `[B]`.
            features, weights: see `unlike_features`.
        """
        codes = codes[:, : self.free]
        codes = F.pad(codes, (0, 1, 0, self.free - codes.shape[1]), value=1.0)  # a 1 marks what is read
        is_read = torch.arange(self.free, device=codes.device) < counts[:, None]
        gist = self.layers((codes * is_read[..., None]).to(self.where.weight.dtype).flatten(1))
        words, right = self._words(gist, labels)
        error = words + PLACE_WEIGHT * F.cross_entropy(self.place(gist).float(), labels.places)
        if len(labels.rows):
            where = self.where(gist).float()[labels.rows]
            error = error + WHERE_WEIGHT * F.cross_entropy(where, labels.cells)
        seen = self.features(gist).unflatten(1, (GRID, GRID, FEATURES))
        return error + SEEN_WEIGHT * unlike_features(seen, features, weights), right

    def _words(self, gist: torch.Tensor, labels: Labels) -> tuple[torch.Tensor, float]:
        *layers, reader = self.answer
        vectors = gist[labels.rows] + self.asked(labels.cells)
        for layer in layers:
            vectors = layer(vectors)
        return reader(vectors, labels)


class PatchReader(nn.Module):
    """Reads from an encoder's own patches what stands there: what it can't tell, no token will."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = WordReader(width)
        self.features = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, FEATURES))

    def forward(
        self, patches: torch.Tensor, labels: Labels, features: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Error of the reading from patches `[B, P, width]`; features, weights: see `unlike_features`."""
        patches = normalize(patches)
        words, _ = self.words(patches[labels.rows, labels.cells], labels)
        seen = self.features(patches).unflatten(1, (GRID, GRID))
        return PATCH_WORDS_WEIGHT * words + SEEN_WEIGHT * unlike_features(seen, features, weights)


def unlike_features(read: torch.Tensor, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of 1 - cosine between what is read and what the eyes see.

    Args:
        read: `[B, GRID, GRID, FEATURES]`. features: `[B, FEATURES, GRID, GRID]`.
        weights: of cells, `[B, GRID, GRID]`, with mean 1.
    """
    unlike = 1 - F.cosine_similarity(read.float(), features.permute(0, 2, 3, 1), dim=-1)
    return (unlike * weights).mean()
