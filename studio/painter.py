"""The seam between the studio and whatever paints: protocols that `pipelines` and test doubles fulfil.

The studio hands down plain keywords and gets PIL images, numbers and text back; never a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL import Image


class PaintingStopped(Exception):
    """Raised by `Painter.paint` after `should_stop` said yes; nothing was painted."""


class ProgressReport(Protocol):
    """What a painter reports while it works."""

    @property
    def phase(self) -> str: ...  # "load" | "encode" | "enlarge" | "paint" | "decode"
    @property
    def stage(self) -> int: ...  # 1-based
    @property
    def stages(self) -> int: ...
    @property
    def step(self) -> int: ...  # within phase and stage; enlarge and decode count tiles
    @property
    def steps(self) -> int: ...
    @property
    def fraction(self) -> float: ...  # 0..1 of the whole job, weighted by forecast cost
    @property
    def width(self) -> int: ...  # pixels of the current stage
    @property
    def height(self) -> int: ...
    @property
    def preview(self) -> Image.Image | None: ...  # small RGB picture, at most every 0.3 s


class PaintingResult(Protocol):
    """A finished picture and what it took."""

    @property
    def image(self) -> Image.Image: ...
    @property
    def seconds(self) -> dict[str, float]: ...  # per phase
    @property
    def backend(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def stages(self) -> tuple[tuple[int, int], ...]: ...  # (width, height) of each stage
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def peak_bytes(self) -> int: ...


class CostForecast(Protocol):
    """What a picture will take, said before it starts."""

    @property
    def seconds(self) -> float: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def stages(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def fits(self) -> bool: ...


class Painter(Protocol):
    """All the studio asks of the pipelines side. The real one is `studio.doors.painting.PipelinePainter`."""

    def load_model(self, folder: Path) -> Any:
        """An opaque handle of the model in `folder`. Raises ValueError or OSError when it can't be read."""

    def paint(
        self,
        model: Any,
        *,
        prompt: str,
        width: int,
        height: int,
        seed: int,
        steps: int | None,
        on_progress: Callable[[ProgressReport], None] | None,
        should_stop: Callable[[], bool] | None,
        tenor: bool | None = None,
        cut_prompt: bool = False,
    ) -> PaintingResult:
        """Paint one picture; `tenor` None is as the model was trained.

        `cut_prompt` reads only what the deciding text encoder reads at once.

        Raises `PaintingStopped` when `should_stop` answered True.
        """

    def forecast(self, folder: Path, width: int, height: int, steps: int | None) -> CostForecast:
        """Seconds and bytes, without loading anything. Raises ValueError for sizes beyond this model."""

    def check_size(self, width: int, height: int) -> str | None:
        """None, or one sentence that says why this size can't be painted."""

    def default_steps(self, folder: Path) -> int:
        """Steps the model in `folder` takes when a request names none."""

    def few_steps(self, folder: Path) -> int:
        """So many steps or fewer are painted by an adapter made for them; 0 when it has none."""

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of `prompt` outside the embedded world, in order of appearance."""

    def world_summary(self) -> str:
        """One line that says what the embedded world knows."""

    def read_manifest(self, weights_dir: Path) -> Mapping[str, Any]:
        """The weights' MANIFEST.json; {"models": {}} where there is none."""

    def lenders(self, folder: Path) -> list[Path]:
        """Folders beside a model's that loading it reads, too."""

    def verify_folder(self, folder: Path) -> list[str]:
        """Problems of the model files in `folder`, one sentence each; empty when all is well."""
