"""The encoded texts of a batch of pictures."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Words:
    """Encoded text of a batch of pictures.

    Attributes:
        text: states `[B, T, J]`; pooled: vectors `[B, P]`, or None for models that take none.
        widths: states that belong to each picture. Its row is never read beyond them, so that a picture does
            not depend on how long the other texts of its batch are.
    """

    text: Tensor
    pooled: Tensor | None
    widths: tuple[int, ...]

    def repeat(self, count: int) -> "Words":
        """Each row `count` times, neighbours together."""
        widths = tuple(width for width in self.widths for _ in range(count))
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count, 0)
        return Words(self.text.repeat_interleave(count, 0), pooled, widths)

    def with_text(self, text: Tensor) -> "Words":
        """Other states of the same shape.

        Raises:
            ValueError: another shape.
        """
        if text.shape != self.text.shape:
            raise ValueError(f"prompt_embeds are {list(text.shape)}; expected {list(self.text.shape)}")
        return replace(self, text=text.to(self.text))

    def pick(self, rows: list[int], width: int) -> tuple[Tensor, Tensor | None]:
        """States `[rows, width, J]` and pooled vectors of some pictures."""
        return self.text[rows, :width], None if self.pooled is None else self.pooled[rows]

    def groups(self) -> list[tuple[int, list[int]]]:
        """(width, rows) of the pictures that share a width."""
        found: dict[int, list[int]] = {}
        for row, width in enumerate(self.widths):
            found.setdefault(width, []).append(row)
        return list(found.items())
