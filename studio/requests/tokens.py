"""Asking for tokens: of pictures, as pictures, from text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studio.checks import (
    MAX_SEED,
    MAX_STEPS,
    check_integer,
    check_name,
    check_number,
    clean_prompt,
    shown,
)
from studio.errors import StudioError
from studio.requests.base import DEFAULT_MODEL, Kind, Request, split_source
from studio.tokens import MAX_TOKENS, unpack

FITS = ("letterbox", "crop", "tiles")


@dataclass(frozen=True)
class TokenEncodeRequest(Request):
    """A picture to turn into tokens.

    Args:
        source: "picture:ID" of the gallery, or "upload:ID" of a picture that was brought along.
        keep: Tokens per tile, 1 to 256. Default: None, all the model makes.
        fit: "letterbox" (the whole picture in one square), "crop" (its middle square) or "tiles" (as many
            squares as it takes at its own resolution).
        seed: Of the noise that prefixes are decoded from.
        steps: Of decoding, 1 to 200. Default: None, the model's own.
        model: A name the registry knows. Default: "storybook".
    Raises:
        StudioError: kind "bad_input", naming the field, what was given and what is allowed.
    """

    kind: ClassVar[Kind] = "encode"

    source: str
    keep: int | None = None
    fit: str = "letterbox"
    seed: int = 0
    steps: int | None = None
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        split_source(self.source)
        if self.fit not in FITS:
            raise StudioError("bad_input", f"fit: given {shown(self.fit)}, allowed {', '.join(FITS)}.")
        _check_decoding(self)

    @property
    def title(self) -> str:
        """What lists call it."""
        return "a picture as tokens"

    @property
    def amount(self) -> int:
        """Tokens."""
        return self.keep or MAX_TOKENS


@dataclass(frozen=True)
class TokenDecodeRequest(Request):
    """Tokens to turn into pictures.

    Args:
        strip: Content of an .fxtk file in base 64.
        keep, seed, steps, model: As for `TokenEncodeRequest`; `keep` uses only so many of the tokens.
    Raises:
        StudioError: kind "bad_input".
    """

    kind: ClassVar[Kind] = "decode"

    strip: str
    keep: int | None = None
    seed: int = 0
    steps: int | None = None
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        unpack(self.strip)
        _check_decoding(self)

    @property
    def title(self) -> str:
        """What lists call it."""
        return "tokens as a picture"

    @property
    def amount(self) -> int:
        """Tokens."""
        return self.keep or MAX_TOKENS


@dataclass(frozen=True)
class TokenGenerateRequest(Request):
    """Tokens to draw from text.

    Args:
        prompt: 1 to 20,000 characters; stored normalised.
        keep: Tokens, 1 to 256. Default: None, the model's own number.
        seed, steps, model: As for `TokenEncodeRequest`; the seed also draws the tokens.
        temperature: Above 0, at most 10.
        top_k: Only so many of the likeliest ids, 0 for all.
        top_p: Only the likeliest ids that together have this probability, 0 for all.
        prefix: Up to 255 ids to go on from, for instance a picture's first tokens.
    Raises:
        StudioError: kind "bad_input" or "too_long".
    """

    kind: ClassVar[Kind] = "generate"

    prompt: str
    keep: int | None = None
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    steps: int | None = None
    prefix: tuple[int, ...] = ()
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", clean_prompt(self.prompt))
        check_number("temperature", self.temperature, 0.01, 10.0)
        check_integer("top_k", self.top_k, 0, 1 << 16)
        check_number("top_p", self.top_p, 0.0, 1.0)
        if not isinstance(self.prefix, list | tuple) or len(self.prefix) >= MAX_TOKENS:
            raise StudioError(
                "bad_input", f"prefix: given {shown(self.prefix)}, allowed up to {MAX_TOKENS - 1} ids."
            )
        object.__setattr__(self, "prefix", tuple(self.prefix))
        for token in self.prefix:
            check_integer("prefix", token, 0, (1 << 16) - 1)
        _check_decoding(self)

    @property
    def title(self) -> str:
        """The prompt."""
        return self.prompt

    @property
    def amount(self) -> int:
        """Tokens."""
        return self.keep or MAX_TOKENS


def _check_decoding(request: TokenEncodeRequest | TokenDecodeRequest | TokenGenerateRequest) -> None:
    if request.keep is not None:
        check_integer("keep", request.keep, 1, MAX_TOKENS)
    check_integer("seed", request.seed, 0, MAX_SEED)
    if request.steps is not None:
        check_integer("steps", request.steps, 1, MAX_STEPS)
    check_name("model", request.model)
