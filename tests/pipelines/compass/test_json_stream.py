"""The streamed reader against the whole one, whatever the sizes of the pieces."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.compass import json_stream
from pipelines.compass.json_stream import JsonStreamError, decode_element, stream_lists

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.integers(1, 40), st.booleans())
@settings(max_examples=150)
def test_elements_equal_those_of_the_whole_file(data, chunk, is_ascii):
    raw = json.dumps(data, ensure_ascii=is_ascii, indent=1 if chunk % 2 else None).encode()
    kept = json_stream.CHUNK
    json_stream.CHUNK = chunk
    try:
        found = list(stream_lists(io.BytesIO(raw)))
    finally:
        json_stream.CHUNK = kept
    expected = [value for values in data.values() if isinstance(values, list) for value in values]
    assert [decode_element(raw[item.offset : item.offset + item.length]) for item in found] == expected


def test_odd_numbers_are_reported_with_their_element():
    found = list(stream_lists(io.BytesIO(b'{"a": [1, NaN, {"b": -Infinity}, 2]}')))
    assert [item.odd_number for item in found] == [None, "NaN", "-Infinity", None]


def test_one_huge_element_is_refused(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    monkeypatch.setattr(json_stream, "MAX_ELEMENT", 256)
    with pytest.raises(JsonStreamError, match="one element is over"):
        list(stream_lists(io.BytesIO(b'{"a": ["' + b"x" * 1000 + b'"]}')))


def test_lists_are_reported_also_when_empty():
    lists: set[str] = set()
    assert list(stream_lists(io.BytesIO(b'{"a": [], "b": 3}'), lists)) == [] and lists == {"a"}
