"""Asking for the self-test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studio.checks import shown
from studio.errors import StudioError
from studio.requests.base import Kind, Request


@dataclass(frozen=True)
class SelftestRequest(Request):
    """The self-test of the attention kernels; it needs no model."""

    kind: ClassVar[Kind] = "selftest"

    model: str = ""

    def __post_init__(self) -> None:
        if self.model:
            raise StudioError("bad_input", f"model: given {shown(self.model)}, allowed none.")

    @property
    def title(self) -> str:
        """What lists call it."""
        return "self-test of the kernels"

    @property
    def amount(self) -> int:
        """It is always the same."""
        return 1
