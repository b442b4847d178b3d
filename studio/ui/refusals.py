"""Failures as people see them: one sentence, never a traceback."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TypeVar

import gradio as gr

from studio.errors import StudioError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def incident() -> StudioError:
    """The error for a fault of ours, called while handling it: a number to show, the traceback in the log."""
    number = secrets.token_hex(4)
    logger.exception("incident %s", number)
    return StudioError(
        "internal", f"Something went wrong on our side (incident {number}).", "The log has the details."
    )


def told(work: Callable[[], Result]) -> Result:
    """The result of `work`; its failure becomes the one sentence that Gradio shows.

    Raises:
        gr.Error: `work` failed.
    """
    try:
        return work()
    except StudioError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        raise gr.Error(str(incident()), print_exception=False) from error
