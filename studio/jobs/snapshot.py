"""What a page sees of a job at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from studio.errors import ErrorKind
from studio.requests import Kind, Request

JobState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
FINAL_STATES: tuple[JobState, ...] = ("done", "failed", "cancelled", "interrupted")
RETRYABLE_STATES: tuple[JobState, ...] = ("failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class JobSnapshot:
    """One job at one moment; times are seconds since the epoch, durations seconds.

    Args:
        id: Identifier; a finished job's picture has the same one in the gallery.
        state: "queued", "running", "done", "failed", "cancelled" or "interrupted" (its process went away).
        request: What was asked for.
        prompt: The text that is painted: the request's prompt with its style's words.
        position: Jobs ahead of it, counting the one that runs; 0 for a job that is not queued.
        phase: "queued", "load", "encode", "enlarge", "paint", "decode", "save" or, at the end, the state.
        stage: Current paint stage, from 1; 0 before painting.
        stages: Number of paint stages; 0 before painting.
        step: Steps done within phase and stage (tiles while decoding).
        steps: Steps of phase and stage; 0 when it has none.
        fraction: 0 to 1 of the whole job.
        width: Pixels of the current stage; 0 before painting.
        height: Pixels of the current stage; 0 before painting.
        elapsed_s: Seconds since it began to run (until it ended).
        eta_s: Seconds left as measured and forecast, queue included; None when nothing is known.
        preview: Small JPEG of the current estimate, or None.
        preview_number: Grows with every new preview, 0 for none.
        image_id: Gallery identifier of the picture once done, else None (also for other kinds of jobs).
        seconds: Seconds per phase once done.
        warnings: Sentences the person should read.
        unknown_words: Words of the prompt outside the model's world.
        error_kind: Kind of the failure, or None.
        error: One sentence, or "".
        hint: What to do about it, or "".
        can_retry: Whether `Studio.retry` would take it.
        has_unsaved_image: Painted, but the disk was full: `Studio.unsaved_png` has it, `retry` saves it.
        on_hold: Why the queue waits ("waiting for disk space: ..."), or "".
        owner: The visitor who asked, "" when nobody in particular.
        peak_bytes: Peak resident memory of the process once done, 0 before.
        result: What there is to show of the product, also while it is made; plain JSON values.
    """

    id: str
    state: JobState
    request: Request
    prompt: str
    created: float
    started: float | None = None
    finished: float | None = None
    position: int = 0
    phase: str = "queued"
    stage: int = 0
    stages: int = 0
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    width: int = 0
    height: int = 0
    elapsed_s: float = 0.0
    eta_s: float | None = None
    preview: bytes | None = field(default=None, repr=False)
    preview_number: int = 0
    image_id: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    error_kind: ErrorKind | None = None
    error: str = ""
    hint: str = ""
    can_retry: bool = False
    has_unsaved_image: bool = False
    on_hold: str = ""
    owner: str = ""
    peak_bytes: int = 0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What is made."""
        return self.request.kind

    @property
    def is_final(self) -> bool:
        """True once nothing will change any more unless somebody retries."""
        return self.state in FINAL_STATES
