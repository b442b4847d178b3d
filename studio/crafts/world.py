"""What the embedded models know, for sentences to people."""

from __future__ import annotations

from studio.painter import Painter
from studio.registry import ModelCard

_MAX_UNKNOWN_WORDS = 50


class World:
    """Words of the embedded world.

    Args:
        painter: Knows them.
    """

    def __init__(self, painter: Painter) -> None:
        self._painter = painter

    def unknown_words(self, card: ModelCard, prompt: str) -> tuple[str, ...]:
        """Words of `prompt` the model does not know, at most 50; none for models with an open vocabulary."""
        if not card.embedded:
            return ()
        words = dict.fromkeys(word[:60] for word in self._painter.unknown_words(prompt))
        return tuple(words)[:_MAX_UNKNOWN_WORDS]

    def sentence(self, unknown: tuple[str, ...]) -> str:
        """What is said about unknown words, "" about none."""
        if not unknown:
            return ""
        return f"Not in Storybook's world: {', '.join(unknown)}; it knows: {self._painter.world_summary()}"
