"""What a person may ask for: frozen dataclasses, validated once, shared by page, API, shell and replay."""

from studio.requests.base import DEFAULT_MODEL, Kind, Request, split_source
from studio.requests.pictures import ImageRequest, ScoreRequest
from studio.requests.selftest import SelftestRequest
from studio.requests.tokens import TokenDecodeRequest, TokenEncodeRequest, TokenGenerateRequest
from studio.requests.video import VideoRequest

_ALL: tuple[type[Request], ...] = (
    ImageRequest,
    TokenEncodeRequest,
    TokenDecodeRequest,
    TokenGenerateRequest,
    VideoRequest,
    SelftestRequest,
)
REQUESTS: dict[str, type[Request]] = {request.kind: request for request in _ALL}

__all__ = [
    "DEFAULT_MODEL",
    "REQUESTS",
    "ImageRequest",
    "Kind",
    "Request",
    "ScoreRequest",
    "SelftestRequest",
    "TokenDecodeRequest",
    "TokenEncodeRequest",
    "TokenGenerateRequest",
    "VideoRequest",
    "split_source",
]
