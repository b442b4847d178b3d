"""Requests: what is let through is normal, what is not gets one sentence."""

import json
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.checks import MAX_PROMPT_CHARS, clean_prompt, parse_integer, parse_size
from studio.errors import StudioError, error_kind
from studio.requests import ImageRequest

NO_WHOLE_NUMBERS: list[Any] = [math.nan, math.inf, 1.0, 512.5, True, False, "512", [], {}, b"64", 10**400, -1]


def refusal(**changes: Any) -> StudioError:
    with pytest.raises(StudioError) as refused:
        ImageRequest(**{"prompt": "a cat", "width": 64, "height": 64, **changes})
    message = refused.value.message
    assert "\n" not in message and len(message) < 250 and refused.value.exit_code == 2
    return refused.value


@pytest.mark.parametrize("field", ["width", "height", "seed", "steps"])
@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=lambda value: ascii(value)[:12])
def test_only_exact_integers_are_numbers(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert error.kind == "bad_input" and error.message.startswith(f"{field}: given ")
    assert "allowed" in error.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width: given 0, allowed multiples of 16 from 64 to 16384."),
        ({"width": 48}, "width: given 48, allowed multiples of 16 from 64 to 16384."),
        (
            {"height": 100},
            "height: given 100, allowed multiples of 16 from 64 to 16384 (for instance 96 or 112).",
        ),
        ({"height": 10**9}, "height: given 1000000000, allowed multiples of 16 from 64 to 16384."),
        (
            {"width": 16384, "height": 16384},
            "size: given 16384x16384 (268,435,456 pixels), allowed up to 67,108,864 pixels.",
        ),
        ({"seed": 2**32}, "seed: given 4294967296, allowed whole numbers from 0 to 4294967295."),
        ({"steps": 0}, "steps: given 0, allowed whole numbers from 1 to 200."),
        (
            {"steps": 10**400},
            "steps: given an integer of more than 38 digits, allowed whole numbers from 1 to 200.",
        ),
        ({"prompt": ""}, "prompt: given nothing to paint, allowed 1 to 20,000 characters."),
        ({"prompt": " \n\t\x00 "}, "prompt: given nothing to paint, allowed 1 to 20,000 characters."),
        ({"prompt": "a" * 10**6}, "prompt: given 1,000,000 characters, allowed 1 to 20,000."),
        ({"prompt": None}, "prompt: given None, allowed text of 1 to 20,000 characters."),
        (
            {"model": "../../etc/passwd"},
            "model: given '../../etc/passwd', allowed a name of letters, digits, dots, dashes and spaces.",
        ),
    ],
)
def test_refusals_say_what_was_given_and_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes).message == message


@pytest.mark.parametrize(
    "name", ["", "<img src=x onerror=alert(1)>", "a\nb", "x" * 129, 7, "\u202ename", "-x", None]
)
def test_model_names_are_names(name: Any) -> None:
    assert refusal(model=name).message.startswith("model: given ")


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_a_prompt_is_cut_or_not(value: Any) -> None:
    assert refusal(cut_prompt=value).message.startswith("cut_prompt: given ")
    request = ImageRequest("a cat", cut_prompt=True)
    assert ImageRequest.from_json(request.to_json()) == request
    assert not ImageRequest.from_json({"prompt": "a cat"}).cut_prompt, "older recipes say nothing of it"


def test_long_prompts_have_their_own_status() -> None:
    assert refusal(prompt="a" * 20_001).http_status == 413
    assert len(ImageRequest("a" * 20_000).prompt) == 20_000


def test_prompt_is_normalised() -> None:
    assert (
        clean_prompt("  cafe\u0301 \x00\x1b[31mred\x07\x7f\u202e tac\r\nx\ry\tz ")
        == "caf\u00e9 [31mred tac\nx\ny\tz"
    )
    assert clean_prompt("cat \ud800 dog \udfff") == "cat \ufffd dog \ufffd"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert clean_prompt(family) == family, "joiners inside emoji stay"


def test_growth_by_normalising_counts_too() -> None:
    # U+0958 is two characters in form NFC
    with pytest.raises(StudioError, match=r"prompt: given 40,000 characters"):
        clean_prompt("\u0958" * MAX_PROMPT_CHARS)


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(), max_size=200))
def test_any_text_ends_clean_or_refused(text: str) -> None:
    try:
        cleaned = clean_prompt(text)
    except StudioError as error:
        assert error.exit_code == 2
        return
    assert cleaned == cleaned.strip() and unicodedata.is_normalized("NFC", cleaned)
    assert clean_prompt(cleaned) == cleaned, "normalising twice changes nothing"
    cleaned.encode("utf-8")
    assert all(char in "\n\t" or unicodedata.category(char) != "Cc" for char in cleaned)


@settings(deadline=None, max_examples=100)
@given(st.integers(4, 512), st.integers(4, 512), st.integers(0, 2**32 - 1), st.none() | st.integers(1, 200))
def test_json_round_trip(width: int, height: int, seed: int, steps: int | None) -> None:
    request = ImageRequest("a caf\u00e9", width * 16, height * 16, seed, steps, style="Night")
    assert ImageRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "request: given [], allowed an object with named fields."),
        ({}, "prompt: given nothing."),
        (
            {"prompt": "a", "<b>": 1},
            "request: given unknown field '<b>', "
            "allowed prompt, width, height, seed, steps, model, style, verify, tenor, cut_prompt.",
        ),
    ],
)
def test_outside_data_is_refused_by_name(data: Any, message: str) -> None:
    with pytest.raises(StudioError) as refused:
        ImageRequest.from_json(data)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("text", "size"), [("1024x768", (1024, 768)), (" 64X64 ", (64, 64)), ("4096\u00d72304", (4096, 2304))]
)
def test_sizes_are_read(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "1024", "x", "axb", "1e9", "64x", "-64x64", "6.4x64", "64x64x64", "9" * 10**5, "\u0661x1"]
)
def test_other_sizes_are_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(StudioError) as refused:
        parse_size(text)
    assert refused.value.message.startswith("size: given ") and len(refused.value.message) < 200


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "inf", "1e3", "1.0", "", "0x10", "1_000", "\u0661", "9" * 30, "true"]
)
def test_typed_numbers_are_whole_numbers(text: str) -> None:
    with pytest.raises(StudioError, match="steps: given"):
        parse_integer("steps", text)
    assert parse_integer("steps", " 12 ") == 12


def test_every_kind_of_error_has_codes() -> None:
    assert StudioError("queue_full", "Full.", "Wait.").exit_code == 1
    assert StudioError("queue_full", "Full.", "Wait.").http_status == 429
    assert str(StudioError("queue_full", "Full.", "Wait.")) == "Full. Wait."
    assert (error_kind("disk_full"), error_kind("no such kind"), error_kind(None)) == (
        "disk_full",
        "internal",
        "internal",
    )
