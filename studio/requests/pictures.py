"""Asking for pictures, and for what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studio.checks import (
    MAX_PIXELS,
    MAX_SEED,
    MAX_STEPS,
    MAX_VERIFY,
    check_integer,
    check_name,
    check_side,
    clean_prompt,
    shown,
)
from studio.errors import StudioError
from studio.requests.base import DEFAULT_MODEL, Kind, Request

MAX_SCORED = 1000


@dataclass(frozen=True)
class ImageRequest(Request):
    """One picture to paint.

    Args:
        prompt: 1 to 20,000 characters; stored normalised (see `clean_prompt`).
        width: Pixels, a multiple of 16 from 64 to 16384; width x height at most 67,108,864.
        height: Pixels, same rule.
        seed: 0 to 4294967295.
        steps: Denoising steps of the first stage, 1 to 200. Default: None, the model's own number.
        model: A name the registry knows. Default: "storybook".
        style: Name of a style of `assets/presets/styles.json`. Default: None.
        verify: Pictures that may be painted, small, until one shows what the prompt says; the large one is
            painted from that one's seed. 1 to 16, or 0 not to look at all. Default: 0.
        tenor: Whether text tokens know their positions (CoMPaSS's TENOR), for models that were trained with
            it. Default: None, as the model was trained.
        cut_prompt: Whether only what the model's text encoder reads at once is painted, as plain pipelines
            do, to compare with the whole prompt. Default: False.
    Raises:
        StudioError: kind "bad_input" or "too_long", naming the field, what was given and what is allowed.
    """

    kind: ClassVar[Kind] = "picture"

    prompt: str
    width: int = 1024
    height: int = 1024
    seed: int = 0
    steps: int | None = None
    model: str = DEFAULT_MODEL
    style: str | None = None
    verify: int = 0
    tenor: bool | None = None
    cut_prompt: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", clean_prompt(self.prompt))
        check_side("width", self.width)
        check_side("height", self.height)
        if self.width * self.height > MAX_PIXELS:
            raise StudioError(
                "bad_input",
                f"size: given {self.width}x{self.height} ({self.width * self.height:,} pixels), "
                f"allowed up to {MAX_PIXELS:,} pixels.",
            )
        check_integer("seed", self.seed, 0, MAX_SEED)
        if self.steps is not None:
            check_integer("steps", self.steps, 1, MAX_STEPS)
        check_name("model", self.model)
        if self.style is not None:
            check_name("style", self.style)
        check_integer("verify", self.verify, 0, MAX_VERIFY)
        if self.tenor is not None and not isinstance(self.tenor, bool):
            raise StudioError("bad_input", f"tenor: given {shown(self.tenor)}, allowed true or false.")
        if not isinstance(self.cut_prompt, bool):
            raise StudioError(
                "bad_input", f"cut_prompt: given {shown(self.cut_prompt)}, allowed true or false."
            )

    @property
    def size(self) -> str:
        """Width and height as the shell writes them, for instance "1024x768"."""
        return f"{self.width}x{self.height}"

    @property
    def title(self) -> str:
        """The prompt."""
        return self.prompt

    @property
    def amount(self) -> int:
        """Pixels of the picture."""
        return self.width * self.height


@dataclass(frozen=True)
class ScoreRequest:
    """Pictures to look at; answered at once, without the queue.

    Args:
        files: 1 to 1000 names of picture files, as typed.
    Raises:
        StudioError: "bad_input".
    """

    files: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.files) <= MAX_SCORED:
            raise StudioError("bad_input", f"files: given {len(self.files)}, allowed 1 to {MAX_SCORED}.")
