"""The door to verdicts on sentences, imported when first needed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from PIL import Image

from studio.scoring import SentenceVerdict


class PipelineScorer:
    """The real `Scorer`."""

    def sentences(self, eyes: Any, prompt: str, picture: Image.Image) -> tuple[SentenceVerdict, ...]:
        """See `Scorer`."""
        from pipelines.compose.sentences import judge_sentences

        found = judge_sentences(eyes, prompt, picture)
        return tuple(SentenceVerdict(**asdict(verdict)) for verdict in found)
