"""Finite scalar quantisation: a vector of bounded, rounded numbers is one token id.

Source: arXiv 2309.15505. All arithmetic is float32; ids are packed with integer digits, which stays exact for
every number of levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

MAX_CODES = 1 << 24  # beyond, float32 codes and their test tables grow without use


@dataclass(frozen=True)
class FiniteScalarQuantizer:
    """Codes on a grid with `levels[i]` values in dimension i, and their ids.

    The first dimension is the least significant digit. Nothing here is learned.

    Attributes:
        levels: values per dimension, each at least 2; their product is at most 2^24.
        eps: widens the bound so that the outermost values can be reached. Default: 1e-3.
    """

    levels: tuple[int, ...]
    eps: float = 1e-3

    def __post_init__(self) -> None:
        is_list = isinstance(self.levels, Sequence) and not isinstance(self.levels, str)
        if not is_list or not self.levels or any(type(v) is not int or v < 2 for v in self.levels):
            raise ValueError(f"levels are {self.levels!r}; each must be an integer of at least 2")
        object.__setattr__(self, "levels", tuple(self.levels))
        if self.num_codes > MAX_CODES:
            raise ValueError(f"levels {list(self.levels)} give {self.num_codes} codes; at most {MAX_CODES}")

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        return math.prod(self.levels)

    @property
    def basis(self) -> tuple[int, ...]:
        """Weight of each digit in an id."""
        return tuple(math.prod(self.levels[:i]) for i in range(len(self.levels)))

    def bound(self, z: torch.Tensor) -> torch.Tensor:
        """Squash `[..., n]` so that rounding gives one of `levels[i]` integers in dimension i."""
        z = self._checked(z).float()
        levels = torch.tensor(self.levels, dtype=torch.float32, device=z.device)
        half = (levels - 1) * (1 + self.eps) / 2
        offset = torch.where(levels.remainder(2) == 0, 0.5, 0.0).to(z.device)
        return (z + (offset / half).atanh()).tanh() * half - offset

    def quantize(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes `[..., n]` float32 in [-1, 1] and ids `[...]` int64 of encoder outputs `[..., n]`.

        Gradients pass the rounding unchanged (straight through).
        """
        bounded = self.bound(z)
        rounded = bounded + (bounded.round() - bounded).detach()  # halves go to the even neighbour
        half = self._half(z.device)
        digits = bounded.detach().round().long() + half
        return rounded / half, (digits * torch.tensor(self.basis, device=z.device)).sum(-1)

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """Codes `[..., n]` float32 of ids `[...]`.

        Raises:
            ValueError: an id outside 0 ... num_codes - 1.
        """
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_codes:
            raise ValueError(
                f"token ids range from {int(ids.min())} to {int(ids.max())}; "
                f"this model's are 0 to {self.num_codes - 1}"
            )
        basis, levels = (torch.tensor(v, device=ids.device) for v in (self.basis, self.levels))
        half = self._half(ids.device)
        digits = (ids[..., None] // basis).remainder(levels)
        return (digits - half).float() / half

    def _half(self, device: torch.device) -> torch.Tensor:
        return torch.tensor(self.levels, device=device) // 2

    def _checked(self, z: torch.Tensor) -> torch.Tensor:
        if z.shape[-1] != len(self.levels):
            raise ValueError(f"encoder outputs have {z.shape[-1]} dimensions; levels {list(self.levels)}")
        return z
