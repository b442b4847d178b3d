"""Detectors behind one interface: `detector(picture, names) -> list[Detected]`, boxes in pixels.

Storybook's own detectors read kind and colour out of a name ("red cat"); real pictures take a zero-shot
detector of transformers whose weights lie on disk.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from pipelines.compass.scop_crops import with_article
from pipelines.compass.scoring import VISOR_THRESHOLD, Detected
from pipelines.storybook.verify import WantedObject
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, resolve


class ObjectDetector(Protocol):
    """Finds objects by name.

    Attributes:
        name: for reports, with what matters about it.
    """

    name: str

    def __call__(self, picture: Image.Image, names: Sequence[str]) -> list[Detected]:
        """Everything that fits one of `names`, surest first; boxes (left, top, right, bottom) in pixels."""

    def knows(self, name: str) -> bool:
        """Whether a name means anything to this detector; others are never reported as missing."""


def wanted_object(name: str) -> WantedObject | None:
    """What a name asks Storybook's detectors for; None when it holds no kind of that world.

    The last kind named is the thing itself: a "house cat" is a cat.
    """
    found: dict[str, str] = {}
    for word in map(resolve, name.replace("-", " ").split()):
        for part, known in (("kind", KINDS), ("colour", COLOURS), ("pattern", PATTERNS)):
            if word in known:
                found[part] = word
    return WantedObject(**found) if "kind" in found else None


class StorybookDetector:
    """Eyes or judge of the Storybook world.

    Args:
        model: `StorybookEyes` or `StorybookJudge`.
        threshold: of the raw detections; every score has its own, higher one.
    """

    def __init__(self, model: Any, threshold: float = VISOR_THRESHOLD) -> None:
        self.model, self.threshold = model.eval(), threshold
        self.name = {"StorybookEyes": "storybook-eyes", "StorybookJudge": "storybook-judge"}.get(
            type(model).__name__, type(model).__name__
        )

    @classmethod
    def from_pretrained(cls, folder: Path | str, threshold: float = VISOR_THRESHOLD) -> "StorybookDetector":
        """Open a detector's folder, whichever of the two it holds.

        Raises:
            ValueError: it holds neither.
        """
        import json

        from pipelines.storybook import detector

        try:
            kind = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["_class_name"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder} holds no detector ({error})") from None
        if kind not in ("StorybookEyes", "StorybookJudge"):
            raise ValueError(f"{folder} holds a {kind}, not one of Storybook's detectors")
        return cls(getattr(detector, kind).from_pretrained(folder), threshold)

    def knows(self, name: str) -> bool:
        return wanted_object(name) is not None

    def __call__(self, picture: Image.Image, names: Sequence[str]) -> list[Detected]:
        return self.look([picture], [names])[0]

    def look(self, pictures: Sequence[Image.Image], names: Sequence[Sequence[str]]) -> list[list[Detected]]:
        """The same for several pictures at once."""
        from pipelines.storybook.detector import detect

        found = []
        for picture, wanted, seen in zip(
            pictures, names, detect(self.model, list(pictures), self.threshold), strict=True
        ):
            width, height = picture.size
            matches = []
            for name in dict.fromkeys(wanted):
                asked = wanted_object(name)
                for item in seen.objects:
                    if asked is not None and asked.fits(item):
                        left, top, right, bottom = item.box
                        box = (left * width, top * height, right * width, bottom * height)
                        matches.append(Detected(name, item.score, box))
            found.append(sorted(matches, key=lambda item: -item.score))
        return found


class ZeroShotDetector:
    """An OWL-ViT or OWLv2 of transformers, asked as VISOR does: "a photo of a red cat".

    Args:
        folder: model folder; nothing is downloaded.
        threshold: of the raw detections.
        device: where it runs. Default: the CPU.
    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, folder: Path | str, threshold: float = VISOR_THRESHOLD, device: str = "cpu") -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        if not Path(folder).is_dir():
            raise ValueError(f"there is no model folder {folder}")
        self.threshold, self.device, self.name = threshold, device, f"zero-shot {Path(folder).name}"
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).to(device).eval()

    def knows(self, name: str) -> bool:
        return bool(name.strip())

    def __call__(self, picture: Image.Image, names: Sequence[str]) -> list[Detected]:
        import torch

        wanted = list(dict.fromkeys(names))
        queries = [f"a photo of {with_article(name)}" for name in wanted]
        inputs = self.processor(text=[queries], images=picture.convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            outputs = self.model(**inputs.to(self.device))
        found = self.processor.post_process_grounded_object_detection(
            outputs, threshold=self.threshold, target_sizes=[(picture.height, picture.width)]
        )[0]
        rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        detected = [Detected(wanted[label], score, tuple(box)) for label, score, box in rows]
        return sorted(detected, key=lambda item: -item.score)
