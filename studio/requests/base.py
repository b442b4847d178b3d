"""What all requests have in common.

Every refusal is one sentence of the form "<field>: given X, allowed Y".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, ClassVar, Literal, Self

from studio.checks import shown
from studio.errors import StudioError
from studio.jobs.identifiers import is_identifier

DEFAULT_MODEL = "storybook"
SOURCES = ("picture", "upload")
Kind = Literal["picture", "encode", "decode", "generate", "video", "selftest"]


class Request(ABC):
    """What all requests have; each is a frozen dataclass whose values are checked when it is made."""

    kind: ClassVar[Kind]
    model: str

    @property
    @abstractmethod
    def title(self) -> str:
        """What lists and messages call it."""

    @property
    @abstractmethod
    def amount(self) -> int:
        """How much there is to make, in pixels; jobs of a like amount tell how long this one will take."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values; `from_json` gives the same request back."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build a request from outside data; unknown or missing fields are refused by name."""
        if not isinstance(data, Mapping):
            raise StudioError(
                "bad_input", f"request: given {shown(data)}, allowed an object with named fields."
            )
        known = {
            field.name: field.default is MISSING and field.default_factory is MISSING
            for field in fields(cls)  # type: ignore[arg-type]
        }
        unknown = [shown(key) for key in data if key not in known]
        if unknown:
            raise StudioError(
                "bad_input", f"request: given unknown field {unknown[0]}, allowed {', '.join(known)}."
            )
        for name, is_required in known.items():
            if is_required and name not in data:
                raise StudioError("bad_input", f"{name}: given nothing.")
        return cls(**data)


def split_source(source: object) -> tuple[str, str]:
    """ "picture" or "upload", and the identifier, of the name of a picture to work on.

    Raises:
        StudioError: "bad_input".
    """
    kind, _, name = source.partition(":") if isinstance(source, str) else ("", "", "")
    if kind not in SOURCES or not is_identifier(name):
        raise StudioError(
            "bad_input", f"source: given {shown(source)}, allowed picture:ID or upload:ID of a picture here."
        )
    return kind, name
