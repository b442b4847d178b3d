"""Silence for notices that mean nothing to a person who waits for a picture; problems still speak."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# beginnings or parts of messages that libraries print on every import or load
NOTICES = (
    "requires torchvision",
    "xFormers",
    "XFORMERS",
    "A matching Triton is not available",
    "No LoRA keys associated",  # an adapter of the transformer has none for the text encoders
    "should be kept in float32: []",
)
LOGGERS = ("diffusers", "transformers", "xformers")


class _Notices(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return record.levelno >= logging.ERROR or not any(notice in message for notice in NOTICES)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Leave out known notices and the loaders' progress bars inside the block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    modules = (diffusers_logging, transformers_logging)
    bars = [module for module in modules if module.is_progress_bar_enabled()]
    notices = _Notices()
    # a filter on a parent logger does not see its children's records: their handlers do
    handlers = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
    handlers += logging.getLogger().handlers + ([logging.lastResort] if logging.lastResort else [])
    for module in bars:
        module.disable_progress_bar()
    for handler in handlers:
        handler.addFilter(notices)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(notices)
        for module in bars:
            module.enable_progress_bar()
