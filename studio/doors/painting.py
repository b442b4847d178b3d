"""The door to the painting side of `pipelines`, imported when first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.painter import CostForecast, PaintingResult, PaintingStopped, ProgressReport
from studio.registry import REPAIR, tenor_weights


class PipelinePainter:
    """The real painter: `pipelines`, imported when first needed."""

    def load_model(self, folder: Path) -> Any:
        """See `Painter`."""
        from pipelines.compose import painting

        return painting.load_model(folder, tenor_weights(folder))

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
        """See `Painter`."""
        from pipelines.compose import painting

        if tenor is not None:
            _switch_tenor(model, tenor)
        try:
            result: PaintingResult = painting.paint(
                model,
                prompt=prompt,
                width=width,
                height=height,
                seed=seed,
                steps=steps,
                cut_prompt=cut_prompt,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        except painting.Cancelled as error:
            raise PaintingStopped from error
        finally:
            # the model stays loaded for requests that leave it as it was trained
            if tenor is False:
                _switch_tenor(model, True)
        return result

    def forecast(self, folder: Path, width: int, height: int, steps: int | None) -> CostForecast:
        """See `Painter`."""
        from pipelines.compose import painting

        cost: CostForecast = painting.forecast(folder, width, height, steps)
        return cost

    def check_size(self, width: int, height: int) -> str | None:
        """See `Painter`."""
        from pipelines.compose import painting

        refusal: str | None = painting.check_size(width, height)
        return refusal

    def default_steps(self, folder: Path) -> int:
        """See `Painter`."""
        from pipelines.compose import painting

        return int(painting.default_steps(folder))

    def few_steps(self, folder: Path) -> int:
        """See `Painter`."""
        from pipelines.compose.few_steps import FEW, is_quick
        from pipelines.compose.sketching import is_distilled

        return FEW if is_quick(folder, FEW) or is_distilled(folder, FEW) else 0

    def unknown_words(self, prompt: str) -> list[str]:
        """See `Painter`."""
        from pipelines.compose import painting

        return list(painting.unfamiliar_words(prompt))

    def world_summary(self) -> str:
        """See `Painter`."""
        from pipelines.storybook import vocabulary

        return str(vocabulary.world_summary())

    def read_manifest(self, weights_dir: Path) -> Mapping[str, Any]:
        """See `Painter`."""
        if not (weights_dir / "MANIFEST.json").is_file():
            return {"models": {}}
        from pipelines import weights

        try:
            manifest: Mapping[str, Any] = weights.read_manifest(weights_dir)
        except (OSError, ValueError) as error:
            raise StudioError("damaged_model", "The weights' MANIFEST.json can't be read.", REPAIR) from error
        return manifest

    def lenders(self, folder: Path) -> list[Path]:
        """See `Painter`."""
        from pipelines import weights
        from pipelines.compose.sketching import enlarger_of, sketches

        enlarger = enlarger_of(folder) if sketches(folder) else None
        return [*weights.lenders(folder), *([enlarger] if enlarger else [])]

    def verify_folder(self, folder: Path) -> list[str]:
        """See `Painter`."""
        from pipelines import weights

        return list(weights.verify_folder(folder))


def _switch_tenor(model: Any, on: bool) -> None:
    """Put TENOR into a model whose weights were trained with it, or take it out; both are exact."""
    from pipelines.compass.support import disable_tenor, enable_tenor, has_tenor, tenor_support

    for pipeline in model.composers:
        if on and not has_tenor(pipeline) and tenor_support(pipeline).status == "trained":
            enable_tenor(pipeline)
        elif not on and has_tenor(pipeline):
            disable_tenor(pipeline)
