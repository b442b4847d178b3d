"""Token jobs: pictures into tokens and back, prefix by prefix."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from studio.doors.doors import Doors
from studio.errors import StudioError
from studio.requests import ImageRequest, TokenDecodeRequest, TokenEncodeRequest, TokenGenerateRequest
from studio.settings import Settings
from studio.studio import Studio
from studio.tokens import pack
from studio.visit import Visit, new_visitor_key
from tests.studio.conftest import finished, wait_for
from tests.studio.makers import SIDE, STOPS, DrawingTokenizer, pack_ids
from tests.studio.painters import DrawingPainter, make_weights


@pytest.fixture
def tokenizer() -> DrawingTokenizer:
    return DrawingTokenizer()


@pytest.fixture
def studio(settings: Settings, tokenizer: DrawingTokenizer) -> Iterator[Studio]:
    weights = make_weights(settings.data_dir / "w", ("storybook-flux", "storybook-flextok"))
    with Studio(
        replace(settings, weights_dir=weights), DrawingPainter(), Doors(tokenizer=tokenizer)
    ) as opened:
        yield opened


def brought(studio: Studio, size: tuple[int, int] = (90, 60)) -> str:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, "PNG")
    buffer.seek(0)
    return f"upload:{studio.sources.add(buffer)}"


def test_a_picture_becomes_tokens_and_prefixes(studio: Studio) -> None:
    job = finished(studio, studio.submit(TokenEncodeRequest(brought(studio))))
    assert (job.state, job.kind, job.error) == ("done", "encode", "")
    found = job.result
    assert (found["width"], found["height"], found["count"], len(found["tokens"])) == (90, 60, 16, 16)
    assert found["bytes"] == 32 and found["bits_per_pixel"] == round(8 * 32 / 5400, 4)
    assert found["stops"] == list(STOPS) and [point["count"] for point in found["points"]] == list(STOPS)
    assert found["points"][0]["psnr"] < found["points"][-1]["psnr"]
    for name in ("original.png", *(f"k-{stop:03d}.png" for stop in STOPS)):
        with Image.open(studio.results.path(job.id, name)) as picture:
            assert picture.size == (SIDE, SIDE), name
    assert studio.results.path(job.id, "strip.fxtk").read_bytes()[:4] == b"FXTK"
    assert {"load", "encode", "decode"} <= set(job.seconds)


def test_a_picture_of_the_gallery_can_be_taken(studio: Studio, tokenizer: DrawingTokenizer) -> None:
    name = studio.submit(ImageRequest("a red ball", 64, 64))
    finished(studio, name)
    job = finished(studio, studio.submit(TokenEncodeRequest(f"picture:{name}", keep=4, fit="crop")))
    assert job.result["count"] == 4 and job.result["stops"] == [1, 2, 4] and "encode crop" in tokenizer.calls


def test_coarse_prefixes_are_shown_while_finer_ones_are_made(
    studio: Studio, tokenizer: DrawingTokenizer
) -> None:
    tokenizer.gate = threading.Event()
    name = studio.submit(TokenEncodeRequest(brought(studio)))
    seen = wait_for(studio, name, lambda job: job.result.get("stops") == [1])
    assert seen.state == "running" and studio.results.path(name, "k-001.png").is_file()
    studio.cancel(name)
    ended = finished(studio, name)
    assert ended.state == "cancelled" and ended.result["stops"] == [1]
    tokenizer.gate.set()
    assert finished(studio, studio.retry(name)).result["stops"] == list(STOPS)


def test_tokens_become_pictures_again(studio: Studio) -> None:
    strip = pack(pack_ids(range(16), 40, 30))
    job = finished(studio, studio.submit(TokenDecodeRequest(strip, keep=8, seed=3)))
    assert job.result["stops"] == [1, 2, 4, 8] and job.result["points"] == []
    assert not job.result["has_original"] and job.result["tokens"] == list(range(8))


def test_text_becomes_tokens(studio: Studio, tokenizer: DrawingTokenizer) -> None:
    job = finished(studio, studio.submit(TokenGenerateRequest("a red dragon", keep=8, prefix=(1, 2, 3))))
    assert job.result["tokens"][:3] == [1, 2, 3] and job.result["count"] == 8
    assert job.unknown_words == ("dragon",) and job.warnings[-1] == "careful"
    few = finished(studio, studio.submit(TokenGenerateRequest("a red ball")))
    assert few.request.keep == few.result["count"] == tokenizer.drawn
    tokenizer.drawn = 0
    with pytest.raises(StudioError, match="makes no tokens from text") as refused:
        studio.submit(TokenGenerateRequest("a red ball"))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TokenDecodeRequest(pack(b"GIF89a"), keep=2), "strip: this is no token file"),
        (lambda: TokenDecodeRequest(pack(pack_ids([1, 2], 8, 8)), keep=3), "strip: 3 tokens were asked for"),
        (lambda: TokenDecodeRequest(pack(pack_ids([1, 60_000], 8, 8))), "strip: token id 60000"),
        (lambda: TokenEncodeRequest("upload:01ARZ3NDEKTSV4RRFFQ69G5FAV"), "not here any more"),
        (lambda: TokenEncodeRequest("picture:01ARZ3NDEKTSV4RRFFQ69G5FAV"), "no such picture"),
    ],
)
def test_what_can_not_be_read_is_refused_before_it_waits(make: Any, sentence: str, studio: Studio) -> None:
    with pytest.raises(StudioError, match=sentence):
        studio.submit(make())
    assert studio.jobs() == []


STRIP = pack(pack_ids([1], 8, 8))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TokenEncodeRequest("../../etc/passwd"), "source"),
        (lambda: TokenEncodeRequest("file:/etc/passwd"), "source"),
        (lambda: TokenEncodeRequest("upload:01ARZ3NDEKTSV4RRFFQ69G5FAV", keep=0), "keep"),
        (lambda: TokenEncodeRequest("upload:01ARZ3NDEKTSV4RRFFQ69G5FAV", keep=257), "keep"),
        (lambda: TokenEncodeRequest("upload:01ARZ3NDEKTSV4RRFFQ69G5FAV", fit="stretch"), "fit"),
        (lambda: TokenDecodeRequest("<b>"), "strip"),
        (lambda: TokenDecodeRequest("A" * 100_000), "strip"),
        (lambda: TokenDecodeRequest(STRIP, seed=-1), "seed"),
        (lambda: TokenGenerateRequest(""), "prompt"),
        (lambda: TokenGenerateRequest("a", temperature=0.0), "temperature"),
        (lambda: TokenGenerateRequest("a", temperature=float("nan")), "temperature"),
        (lambda: TokenGenerateRequest("a", top_p=1.5), "top_p"),
        (lambda: TokenGenerateRequest("a", top_k=-1), "top_k"),
        (lambda: TokenGenerateRequest("a", prefix=(1,) * 256), "prefix"),
        (lambda: TokenGenerateRequest("a", prefix=(1.5,)), "prefix"),  # type: ignore[arg-type]
        (lambda: TokenGenerateRequest("a", steps=True), "steps"),
    ],
)
def test_fields_are_refused_by_name(make: Any, field: str) -> None:
    with pytest.raises(StudioError) as refused:
        make()
    assert refused.value.message.startswith(f"{field}: ") and refused.value.exit_code == 2


def test_requests_survive_the_record(studio: Studio) -> None:
    fields = {"keep": 6, "prefix": (1, 2), "temperature": 0.5, "model": "storybook-flextok"}
    request = TokenGenerateRequest("a red ball", **fields)
    assert finished(studio, studio.submit(request)).request == request


def test_another_visitors_picture_is_no_source(settings: Settings, tokenizer: DrawingTokenizer) -> None:
    weights = make_weights(settings.data_dir / "w", ("storybook-flux", "storybook-flextok"))
    shared = replace(settings, weights_dir=weights, is_shared=True)
    with Studio(shared, DrawingPainter(), Doors(tokenizer=tokenizer)) as studio:
        mine, other = Visit(studio, new_visitor_key()), Visit(studio, new_visitor_key())
        name = mine.submit(ImageRequest("a red ball", 64, 64))
        finished(studio, name)
        with pytest.raises(StudioError, match="no such picture"):
            other.submit(TokenEncodeRequest(f"picture:{name}"))
        assert finished(studio, mine.submit(TokenEncodeRequest(f"picture:{name}"))).state == "done"


def test_without_the_model_there_is_one_sentence(settings: Settings) -> None:
    with Studio(settings, DrawingPainter()) as studio:
        with pytest.raises(
            StudioError, match="storybook-flextok does not come with this version yet"
        ) as refused:
            studio.submit(TokenGenerateRequest("a red ball"))
        assert (refused.value.exit_code, refused.value.http_status) == (2, 503)


def test_pictures_that_are_brought_are_checked_and_turned_upright(studio: Studio) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (60, 30), (200, 10, 10)).save(buffer, "JPEG", exif=exif)
    buffer.seek(0)
    name = studio.sources.add(buffer)
    assert studio.sources.open(name).size == (30, 60)
    for content in (b"", b"<svg/>", b"%PDF"):
        with pytest.raises(StudioError, match="can't be read as a PNG, JPEG or WebP"):
            studio.sources.add(io.BytesIO(content))
    for wrong in ("../x", "", "01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        with pytest.raises(StudioError, match="not here any more"):
            studio.sources.open(wrong)
