"""What a person who waits for tokens is told, and the callbacks that know it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.compose.painting import Cancelled

if TYPE_CHECKING:
    from PIL import Image

PREVIEW_EVERY_S = 0.3
PREVIEW_SHARE = 0.1  # of the time that previews may take, on slow machines


@dataclass(frozen=True)
class TokenProgress:
    """What a watcher is told.

    Attributes:
        phase: "encode", "generate" or "decode".
        done, total: tiles, tokens or steps of the phase.
        fraction: share of the whole work that is done, 0 to 1.
        tokens: ids so far, while they are made.
        preview: now and then, a small picture of what it will be.
    """

    phase: str
    done: int
    total: int
    fraction: float
    tokens: tuple[int, ...] = ()
    preview: Image.Image | None = None


class Watcher:
    """Turns callbacks into `TokenProgress`, takes times, shows previews, and polls for a stop."""

    def __init__(
        self,
        on_progress: Callable[[TokenProgress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.on_progress, self.should_stop = on_progress, should_stop
        self._seconds: dict[str, float] = {}
        self.mark = time.monotonic()
        self.next_preview = self.mark + PREVIEW_EVERY_S
        self.before = 0.0  # share of the work that came before decoding
        self.batch = (0, 1, 1, 1)
        self.poll()

    @property
    def seconds(self) -> dict[str, float]:
        """Time of each phase so far."""
        return {phase: round(spent, 3) for phase, spent in self._seconds.items()}

    def poll(self) -> None:
        """
        Raises:
            Cancelled: `should_stop` answered True.
        """
        if self.should_stop is not None and self.should_stop():
            raise Cancelled

    def tell(self, progress: TokenProgress) -> None:
        if self.on_progress is not None:
            self.on_progress(progress)

    def spend(self, phase: str) -> None:
        """Count the time since the last call as time of `phase`."""
        now = time.monotonic()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self.mark
        self.mark = now

    def batch_watcher(self, steps: int) -> Callable[[int, int, int], None]:
        def begin(first: int, count: int, tiles: int) -> None:
            self.batch = (first, count, tiles, steps)

        return begin

    def on_quiet_step(self, pipeline: Any, step: int, t: float, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline._interrupt = self.should_stop is not None and self.should_stop()
        return {}

    def on_step(self, pipeline: Any, step: int, t: float, tensors: dict[str, Any]) -> dict[str, Any]:
        self.on_quiet_step(pipeline, step, t, tensors)
        self.spend("decode")
        first, count, tiles, steps = self.batch
        share = (first + count * (step + 1) / steps) / tiles
        preview = None
        if tiles == 1 and not pipeline.interrupt:
            preview = self._preview(lambda: pipeline.postprocess(tensors["denoised"])[0])
        done = round(share * steps * tiles)
        fraction = self.before + (1 - self.before) * share
        self.tell(TokenProgress("decode", done, steps * tiles, fraction, preview=preview))
        return {}

    def on_token(
        self, ids: tuple[int, ...], total: int, look: Callable[[tuple[int, ...]], Image.Image]
    ) -> None:
        """A token more; `look` shows what they say so far."""
        self.poll()
        self.spend("generate")
        preview = None if len(ids) == total else self._preview(lambda: look(ids))
        self.tell(TokenProgress("generate", len(ids), total, 0.5 * len(ids) / total, ids, preview))

    def _preview(self, paint: Callable[[], Image.Image]) -> Image.Image | None:
        """A picture when it is time for one; slow ones come more rarely."""
        if self.on_progress is None or self.mark < self.next_preview:
            return None
        began, picture = self.mark, paint()
        self.spend("preview")
        self.next_preview = self.mark + max(PREVIEW_EVERY_S, (self.mark - began) / PREVIEW_SHARE)
        return picture
