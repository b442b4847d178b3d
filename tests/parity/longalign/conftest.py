"""The reduced vocabulary: tests that need it run where the recorded folder has it."""

from typing import Any

import pytest

from tests.parity.cases import folder
from tests.parity.longalign.vectors import FAMILY, MINI

_NOT_RUN = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (folder(FAMILY) / MINI).is_dir():
        return
    needing = [item for item in items if "mini_tokenizer" in getattr(item, "fixturenames", ())]
    if needing:
        items[:] = [item for item in items if item not in needing]
        config.hook.pytest_deselected(items=needing)
        config.stash[_NOT_RUN] = len(needing)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(_NOT_RUN, 0):
        where = folder(FAMILY) / MINI
        terminalreporter.write_line(
            f"longalign tests that did not run: {count} (no vocabulary {where})", yellow=True
        )


@pytest.fixture
def mini_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder(FAMILY) / MINI)
    tokenizer.model_max_length = 77
    return tokenizer
