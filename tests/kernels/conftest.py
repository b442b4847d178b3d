"""Tests of the Triton kernel need the triton package; without it they are left out with one printed line."""

import importlib.util

import pytest

_NOT_RUN = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "triton: needs the triton package; not run, with one line, without it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("triton")]
    if marked and importlib.util.find_spec("triton") is None:
        items[:] = [item for item in items if item not in marked]
        config.hook.pytest_deselected(items=marked)
        line = f"triton tests that did not run: {len(marked)} (the triton package is not installed)"
        config.stash[_NOT_RUN] = line


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _NOT_RUN in config.stash:
        terminalreporter.write_line(config.stash[_NOT_RUN], yellow=True)
