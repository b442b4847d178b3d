"""Finished clips on disk: a film that was interrupted goes on behind its last whole clip.

A folder holds `film.json` (what decides about the pixels) and one file per clip, written under another name
and then moved into place: `clip_0000.safetensors` with frames, latents and what the next clip needs.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipelines.vidrd.clip_loop import ClipLatents
from pipelines.vidrd.film_plan import ClipOrder, FilmPlan
from pipelines.vidrd.handover import Handover
from pipelines.vidrd.trajectory import Trajectory

SCHEMA = 1
# what may grow or change from clip to clip is compared clip by clip
_PER_CLIP = ("num_clips", "settings")


@dataclass(frozen=True)
class FinishedClip:
    """A clip and its pictures.

    Attributes:
        clip: latents and what the next clip needs.
        frames: shown frames, `[B, F, H, W, 3]` uint8 on the CPU.
    """

    clip: ClipLatents
    frames: torch.Tensor

    @property
    def index(self) -> int:
        return self.clip.index


class ClipStore:
    """Clips of one film in a folder.

    Args:
        folder: made if needed.
        plan: what is filmed.
        identity: what else decides about the pixels (model, start), as JSON values.
    Raises:
        ValueError: the folder holds another film; the first difference is named.
    """

    def __init__(self, folder: str | Path, plan: FilmPlan, identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.plan = plan
        self._common = {**_common(plan), **identity}
        recorded = self._read()
        for name, value in recorded.get("film", self._common).items():
            if value != self._common.get(name):
                raise ValueError(
                    f"{self.folder} holds another film: its {name} is {value!r:.80}, asked is "
                    f"{self._common.get(name)!r:.80}; remove it to film anew"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        if not recorded:
            text = json.dumps({"schema": SCHEMA, "film": self._common}, indent=1)
            part = self.folder / "film.json.part"
            part.write_text(text + "\n", encoding="utf-8")
            os.replace(part, self.folder / "film.json")

    def _read(self) -> dict[str, Any]:
        path = self.folder / "film.json"
        if not path.exists():
            return {}
        try:
            recorded = json.loads(path.read_text(encoding="utf-8"))
            if recorded["schema"] != SCHEMA:
                raise ValueError(f"schema {recorded['schema']}")
            return recorded
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} can't be read as a film's record ({error!r:.100})") from error

    def path(self, number: int) -> Path:
        """File of a clip."""
        return self.folder / f"clip_{number:04}.safetensors"

    def has(self, number: int) -> bool:
        return self.path(number).exists()

    def count(self) -> int:
        """Whole clips from the first one on."""
        number = 0
        while number < self.plan.num_clips and self.has(number):
            number += 1
        return number

    def save(self, finished: FinishedClip) -> None:
        """Write a clip together with the settings it was filmed with."""
        clip, number = finished.clip, finished.index
        tensors = {
            "frames": finished.frames,
            "latents": clip.latents,
            **_tensors("trajectory", clip.trajectory),
        }
        if clip.opening is not None:
            tensors |= _tensors("opening", clip.opening)
        record = {
            "settings": _order(self.plan.clips()[number]),
            "handover": None if clip.handover is None else asdict(clip.handover),
            "closes": clip.closes,
        }
        part = self.path(number).with_suffix(".part")
        metadata = {"clip": json.dumps(record)}
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part, metadata=metadata
        )
        os.replace(part, self.path(number))

    def load(
        self, number: int, device: torch.device | str = "cpu", any_settings: bool = False
    ) -> FinishedClip:
        """Read a clip.

        Raises:
            ValueError: the file is damaged; or, unless `any_settings`, the clip was filmed with settings
                other than the plan's.
        """
        path = self.path(number)
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads(file.metadata()["clip"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            frames = tensors.pop("frames")
            tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
            handover = None if record["handover"] is None else Handover(**record["handover"])
            opening = _trajectory(tensors, "opening") if "opening.start" in tensors else None
            trajectory = _trajectory(tensors, "trajectory")
            clip = ClipLatents(number, tensors["latents"], trajectory, opening, handover, record["closes"])
            settings = record["settings"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(_unreadable(path, error)) from error
        if not any_settings and settings != _order(self.plan.clips()[number]):
            raise ValueError(f"{path} was filmed with other settings than asked now; film this clip again")
        return FinishedClip(clip, frames)

    def frames(self, number: int) -> torch.Tensor:
        """Shown frames of a clip alone, `[B, F, H, W, 3]` uint8.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path(number)
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor("frames")
        except (SafetensorError, OSError) as error:
            raise ValueError(_unreadable(path, error)) from error

    def relabel(self, number: int) -> None:
        """Record that a clip belongs to the present plan although an earlier one was filmed again."""
        self.save(self.load(number, any_settings=True))


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} can't be read as a clip ({error!r:.100}); remove it to film it again"


def _common(plan: FilmPlan) -> dict[str, Any]:
    """What must be the same for all clips of a film, as JSON values."""
    fields = {name: value for name, value in asdict(plan).items() if name not in _PER_CLIP}
    return json.loads(json.dumps(fields))


def _order(order: ClipOrder) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(order)))


def _tensors(name: str, trajectory: Trajectory) -> dict[str, torch.Tensor]:
    steps = {f"{name}.step{call:04}": step for call, step in enumerate(trajectory.steps)}
    return {f"{name}.start": trajectory.start, **steps}


def _trajectory(tensors: Mapping[str, torch.Tensor], name: str) -> Trajectory:
    steps = [tensors[key] for key in sorted(tensors) if key.startswith(f"{name}.step")]
    return Trajectory(tensors[f"{name}.start"], steps, tensors["latents"])
