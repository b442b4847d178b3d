"""Detectors behind one interface: `detector(picture, names) -> list[Detected]`, boxes in pixels.

Storybook's own detectors read kind and colour out of a name ("red cat"); real pictures take a zero-shot
detector of transformers whose weights lie on disk.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from pipelines.compass.scop_crops import with_article
from pipelines.compass.scoring import VISOR_THRESHOLD, Detected
from pipelines.storybook.verify import WantedObject
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, resolve

STORYBOOK = {"StorybookEyes": "storybook-eyes", "StorybookJudge": "storybook-judge"}
ZERO_SHOT = ("owlvit", "owlv2")  # model types of transformers that are asked in VISOR's way


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
        self.name = STORYBOOK.get(type(model).__name__, type(model).__name__)

    @classmethod
    def from_pretrained(cls, folder: Path | str, threshold: float = VISOR_THRESHOLD) -> "StorybookDetector":
        """Open a detector's folder, whichever of the two it holds.

        Raises:
            ValueError: it holds neither.
        """
        from pipelines.storybook import detector

        kind = _config(folder).get("_class_name")
        if kind not in STORYBOOK:
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


def open_detector(
    folder: Path | str, threshold: float = VISOR_THRESHOLD, device: str = "cpu"
) -> "StorybookDetector | ZeroShotDetector":
    """Open a detector's folder, Storybook's own or an OWL-ViT or OWLv2 of transformers.

    Args:
        threshold: of the raw detections. device: where a zero-shot detector runs.
    Raises:
        ValueError: it holds neither.
    """
    config = _config(folder)
    if config.get("_class_name") in STORYBOOK:
        return StorybookDetector.from_pretrained(folder, threshold)
    if config.get("model_type") in ZERO_SHOT:
        return ZeroShotDetector(folder, threshold, device)
    held = config.get("_class_name") or config.get("model_type") or "something else"
    raise ValueError(
        f"{folder} holds {held}; a detector is one of {', '.join(STORYBOOK.values())}, or a folder of "
        f"transformers with a model of type {' or '.join(ZERO_SHOT)}"
    )


def _config(folder: Path | str) -> dict[str, Any]:
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no detector ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder} holds no detector (its config.json is no object)")
    return config
