"""The arms of a comparison: a model folder with or without CoMPaSS weights, painted and looked at."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.compass.evaluation import LookOptions, PaintMany, Seen, SeenFile, fingerprint, look, paint_seed
from pipelines.compass.schedule import REFERENCE_TRUE_CFG
from pipelines.compass.sidecar import SIDECAR, own_weights
from pipelines.compass.spatial_prompts import SpatialPrompt
from pipelines.storybook.guidance import FLUX_GUIDANCE, SD_GUIDANCE
from pipelines.weights import sha256_of

PUBLISHED_SD_GUIDANCE = 7.5
TEXT_TOKENS = 24  # more than any prompt about two objects of the Storybook world has


def model_paint(
    folder: Path, compass: str | Path | None, prompts: Sequence[SpatialPrompt], steps: int, guidance: float
) -> PaintMany:
    """A painter from a model folder, in the dtype that is fast here.

    All texts are padded to one length: a picture must not depend on what else is in its batch or run.
    """
    import torch

    from pipelines.compass.pipeline_compass import CompassPipeline
    from pipelines.runtime import choose_runtime

    runtime = choose_runtime()
    pipeline = CompassPipeline.from_pretrained(folder, compass=compass, dtype=getattr(torch, runtime.dtype))
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": steps}
    if hasattr(pipeline, "transformer"):
        options["true_cfg_scale"] = guidance
        if not pipeline.transformer.config.guidance_embeds:
            longest = pipeline.text_length([prompt.text for prompt in prompts], "")
            options["max_sequence_length"] = max(longest, TEXT_TOKENS)
    else:
        options["guidance_scale"] = guidance

    def paint(texts: Sequence[str], seeds: Sequence[int]) -> Sequence[Any]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipeline(list(texts), generator=generators, **options).images

    return paint


def usual_guidance(folder: Path) -> float:
    """What a model folder is painted with when nothing is asked for.

    Raises:
        ValueError: it is no model folder.
    """
    try:
        if (folder / "unet").is_dir():
            return SD_GUIDANCE if folder.name.startswith("storybook") else PUBLISHED_SD_GUIDANCE
        config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no model folder ({error})") from None
    return REFERENCE_TRUE_CFG if config.get("guidance_embeds") else FLUX_GUIDANCE


class LatePaint:
    """A painter that loads its model when it is first needed: a complete file needs none."""

    def __init__(self, build: Callable[[], PaintMany]) -> None:
        self._build = build
        self._paint: PaintMany | None = None

    def __call__(self, texts: Sequence[str], seeds: Sequence[int]) -> Sequence[Any]:
        if self._paint is None:
            self._paint = self._build()
        return self._paint(texts, seeds)


@dataclass(frozen=True)
class Arm:
    """One way to paint.

    Attributes:
        name: for tables. folder: of the model.
        compass: "auto" (the weights of the model folder), their place or repository id, or None.
        steps, guidance: of the sampler.
    """

    name: str
    folder: Path
    compass: str | None
    steps: int
    guidance: float

    @property
    def weights(self) -> str:
        """A name for all weights and settings that its pictures depend on, and nothing else.

        The components that the model's index lists and the CoMPaSS weights: what else is published into the
        folder changes none of its pictures.
        """
        index = self.folder / "model_index.json"
        try:
            listed = sorted(json.loads(index.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder} is no model folder ({error})") from None
        marks = [sha256_of(index)]
        marks += [
            f"{name} {fingerprint(self.folder / name)}" for name in listed if (self.folder / name).is_dir()
        ]
        if (self.folder / SIDECAR).is_file():
            marks.append(sha256_of(self.folder / SIDECAR))
        return " ".join([*marks, self._compass_mark(), str(self.steps), str(self.guidance)])

    def _compass_mark(self) -> str:
        source = own_weights(self.folder) if self.compass == "auto" else self.compass
        if source is None:
            return ""
        path = Path(source)
        if path.is_file():
            beside = path.parent / SIDECAR
            return " ".join(sha256_of(file) for file in (path, beside) if file.is_file())
        return fingerprint(path) if path.is_dir() else str(source)

    def painter(self, prompts: Sequence[SpatialPrompt]) -> PaintMany:
        """Paints these prompts; the model is loaded with the first picture."""
        return LatePaint(lambda: model_paint(self.folder, self.compass, prompts, self.steps, self.guidance))


@dataclass(frozen=True)
class Part:
    """One list of prompts, painted by one arm.

    Attributes:
        arm, name, prompts: what was painted, `name` for tables.
        paint: the arm's painter. pictures: folder that keeps the pictures, or None.
        seen: what the detectors found, prompt by prompt.
    """

    arm: Arm
    name: str
    prompts: Sequence[SpatialPrompt]
    paint: PaintMany
    pictures: Path | None
    seen: Sequence[Seen]

    def picture(self, item: Seen) -> Image.Image:
        """One of its pictures: as kept, else painted again, which gives the same one."""
        kept = None if self.pictures is None else self.pictures / f"{item.prompt:04d}_{item.seed}.png"
        if kept is not None and kept.is_file():
            with Image.open(kept) as picture:
                return picture.convert("RGB")
        prompt = self.prompts[item.prompt].text
        return self.paint([prompt], [paint_seed(item.prompt, item.seed)])[0].convert("RGB")


def run_part(
    arm: Arm,
    name: str,
    prompts: Sequence[SpatialPrompt],
    detectors: Sequence[Any],
    cache: Path,
    options: LookOptions,
    marks: Sequence[str] = (),
) -> Part:
    """Paint and look at what the cache doesn't hold yet.

    Args:
        detectors: of `detectors.ObjectDetector`.
        marks: what the cached answers depend on beside the arm: the detectors' weights, a file's prompts.
    """
    key = hashlib.sha256(repr([arm.weights, name, *marks]).encode()).hexdigest()[:16]
    paint = arm.painter(prompts)
    file = SeenFile(cache / f"{arm.name}_{name}_{key}.jsonl")
    seen = look(prompts, paint, detectors, file, options)
    return Part(arm, name, prompts, paint, options.pictures, seen)
