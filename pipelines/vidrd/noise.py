"""Noise of video clips: frames that share noise, noise that remembers the clip before, and seeds.

Shape letters: B videos, C channels, F frames, h and w latent rows and columns; tensors are `[B, C, F, h, w]`.
Source: arXiv 2309.03549 (VidRD); mixed and progressive noise: arXiv 2305.10474 (PYoCo).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

Shape = tuple[int, int, int, int, int]


class NoiseSource(Protocol):
    """Unit normal noise of a film."""

    def initial(self) -> torch.Tensor:
        """Noise of the first clip, `[B, C, F, h, w]` float32 on the CPU."""

    def fresh(self, clip: int) -> torch.Tensor:
        """Noise of a later clip; of the same shape."""


def noise_shares(alpha: float) -> tuple[float, float]:
    """Factors (on the old noise, on the fresh noise) that keep unit variance: alpha and 1 over their length.

    `math.inf` keeps the old noise alone.
    """
    if math.isinf(alpha):
        return 1.0, 0.0
    length = math.sqrt(1 + alpha**2)
    return alpha / length, 1 / length


def progressive_noise(draws: torch.Tensor, alpha: float, as_published: bool = False) -> torch.Tensor:
    """Noise in which each frame leans on the one before: x_f = keep x_(f-1) + fresh e_f.

    Args:
        draws: unit normal `[B, C, F, h, w]`, the first frame is taken as it is.
        alpha: 0 gives independent frames.
        as_published: use 1 / (1 + alpha^2) as the deviation of what is new, as the released code does: the
            frames then lose variance.
    """
    keep, fresh = noise_shares(alpha)
    if as_published:
        fresh = 1 / (1 + alpha**2)
    frames = [draws[:, :, 0]]
    for index in range(1, draws.shape[2]):
        frames.append(keep * frames[-1] + fresh * draws[:, :, index])
    return torch.stack(frames, dim=2)


def mixed_noise(
    shared: torch.Tensor, own: torch.Tensor, alpha: float, as_published: bool = False
) -> torch.Tensor:
    """Noise with one part that all frames share.

    Args:
        shared: unit normal `[B, C, 1, h, w]`. own: `[B, C, F, h, w]`.
        alpha: 0 gives independent frames.
        as_published: use the variances alpha^2 / (1 + alpha^2) and 1 / (1 + alpha^2) as deviations.
    """
    keep, fresh = noise_shares(alpha)
    if as_published:
        keep, fresh = alpha**2 / (1 + alpha**2), 1 / (1 + alpha**2)
    return keep * shared + fresh * own


class SeededNoise:
    """A generator of its own for every clip of every video, drawn on the CPU.

    A clip's noise depends on its seed and number alone: not on the batch, the device, or the clips before it.

    Args:
        shape: `[B, C, F, h, w]`.
        seeds: one per video.
        clip_seeds: other seeds of single clips, by clip number from 0; video b takes that seed plus b.
        first: noise of the first clip, instead of a draw.
    """

    def __init__(
        self,
        shape: Shape,
        seeds: Sequence[int],
        clip_seeds: Mapping[int, int] | None = None,
        first: torch.Tensor | None = None,
    ) -> None:
        self.shape, self.seeds, self.clip_seeds = shape, tuple(seeds), clip_seeds or {}
        if first is not None and tuple(first.shape) != tuple(shape):
            raise ValueError(f"latents are {list(first.shape)}; the first clip needs {list(shape)}")
        self.first = first

    def initial(self) -> torch.Tensor:
        return self.fresh(0) if self.first is None else self.first

    def fresh(self, clip: int) -> torch.Tensor:
        own = self.clip_seeds.get(clip)
        seeds = self.seeds if own is None else [own + video for video in range(len(self.seeds))]
        return torch.stack(
            [torch.randn(self.shape[1:], generator=clip_generator(seed, clip)) for seed in seeds]
        )


class PublishedNoise:
    """The draws of the released code from one generator: frame by frame at first, then a clip per extension.

    Args:
        shape: `[B, C, F, h, w]`.
        generator: on the CPU.
        alpha: of `progressive_noise`, with the published deviations.
    """

    def __init__(self, shape: Shape, generator: torch.Generator, alpha: float = 0.0) -> None:
        self.shape, self.generator, self.alpha = shape, generator, alpha

    def initial(self) -> torch.Tensor:
        batch, channels, frames, height, width = self.shape
        one = (batch, channels, 1, height, width)
        draws = [torch.randn(one, generator=self.generator) for _ in range(frames)]
        return progressive_noise(torch.cat(draws, dim=2), self.alpha, as_published=True)

    def fresh(self, clip: int) -> torch.Tensor:
        return torch.randn(self.shape, generator=self.generator)


def clip_generator(seed: int, clip: int) -> torch.Generator:
    """The generator of one clip: seeded with a hash of the film's seed and the clip's number."""
    digest = hashlib.sha256(f"vidrd/{seed}/{clip}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
