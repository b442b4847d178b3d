"""Known notices are left out while loading; everything else still speaks."""

import logging

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from pipelines.compose.quiet import quiet_loading


@pytest.fixture
def heard(monkeypatch):
    """Messages that reach the handler of transformers' loggers."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_known_notices_are_left_out_inside_the_block_only(heard):
    logger = transformers_logging.get_logger("transformers.models.some_model")
    with quiet_loading():
        logger.warning("`CLIPImageProcessor` requires torchvision (not installed); falling back")
        logger.warning("Some weights were newly initialized")
        logger.error("an error that requires torchvision")
    logger.warning("now it requires torchvision")
    assert heard == [
        "Some weights were newly initialized",
        "an error that requires torchvision",
        "now it requires torchvision",
    ]


def test_progress_bars_come_back_also_after_an_error():
    assert diffusers_logging.is_progress_bar_enabled()
    with pytest.raises(OSError, match="broken"), quiet_loading():
        assert not diffusers_logging.is_progress_bar_enabled()
        assert not transformers_logging.is_progress_bar_enabled()
        raise OSError("broken")
    assert diffusers_logging.is_progress_bar_enabled() and transformers_logging.is_progress_bar_enabled()


def test_bars_that_a_person_switched_off_stay_off():
    diffusers_logging.disable_progress_bar()
    try:
        with quiet_loading():
            pass
        assert not diffusers_logging.is_progress_bar_enabled()
    finally:
        diffusers_logging.enable_progress_bar()
