"""The door to the meters of prompts and seams, imported when first needed."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from studio.metering import Gauge, Seams, SentenceLength


class PipelineMeters:
    """The real `Meters`."""

    def gauges(self, folder: Path, prompt: str) -> list[Gauge]:
        """See `Meters`."""
        from pipelines.compose.prompt_meter import measure_prompt

        return [
            Gauge(
                encoder=found.encoder,
                limit=found.limit,
                tokens=found.rows,
                sentences=tuple(SentenceLength(one.text, one.rows, one.lost) for one in found.sentences),
                whole=found.whole,
                reading=found.reading,
                dropped=found.dropped,
                lost=found.lost,
                is_summary=found.is_summary,
            )
            for found in measure_prompt(folder, prompt)
        ]

    def has_borders(self, width: int, height: int) -> bool:
        """See `Meters`."""
        from pipelines.scale_dit.tiles import count_tiles

        return count_tiles(height // 8, width // 8) > 1

    def seams(self, picture: Image.Image) -> Seams:
        """See `Meters`."""
        from pipelines.scale_dit.seams import measure_seams

        found = measure_seams(picture)
        return Seams(found.ratio, found.worst, found.column, found.row)
