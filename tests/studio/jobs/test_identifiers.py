"""Identifiers are unique and sort by time, whatever the clock does."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from studio.jobs.identifiers import is_identifier, new_identifier


def test_unique_and_ascending_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [new_identifier() for _ in range(50)]
    hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: hour_ago)
    made = first + [new_identifier() for _ in range(50)]
    assert made == sorted(set(made))
    assert all(is_identifier(name) and len(name) == 26 for name in made)


def test_unique_over_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_identifier(), range(2000)))
    assert len(set(made)) == 2000


@pytest.mark.parametrize(
    "text", ["", "x" * 26, "../" * 9, "01ARZ3NDEKTSV4RRFFQ69G5FA", "01ARZ3NDEKTSV4RRFFQ69G5FAV\n", 7, None]
)
def test_other_texts_are_none(text: object) -> None:
    assert not is_identifier(text)
