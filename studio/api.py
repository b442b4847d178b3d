"""The requests as named Gradio endpoints: /image, /forecast, /job; `studio.routes` has the plain routes."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from studio.requests import DEFAULT_MODEL, ImageRequest
from studio.studio import Studio
from studio.ui.answers import forecast_json, job_json, picture_json
from studio.ui.refusals import told
from studio.ui.visitors import visit_of

_WATCH_S = 0.25


def add_endpoints(studio: Studio) -> None:
    """Add the named endpoints to the `gr.Blocks` that is being built."""

    async def image(
        prompt: str,
        width: int = 1024,
        height: int = 1024,
        seed: int = 0,
        steps: int | None = None,
        model: str = DEFAULT_MODEL,
        style: str | None = None,
        tenor: bool | None = None,
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Paint one picture and wait for it.

        Width and height are pixels, multiples of 16. The answer has the picture's `url` on this server, its
        settings, seconds per phase and warnings. A refusal is one sentence.
        """
        fields = {"prompt": prompt, "width": width, "height": height, "seed": seed, "steps": steps}
        ask = {**fields, "model": model, "style": style, "tenor": tenor}
        visit = visit_of(studio, request.headers if request else {})
        name = await run_in_threadpool(told, lambda: visit.submit(ImageRequest.from_json(ask)))
        # sleeping here holds no thread, so that many callers may wait without stopping the page
        while not (job := await run_in_threadpool(told, lambda: visit.watch(name))).is_final:
            await asyncio.sleep(_WATCH_S)
        if job.state != "done":
            raise gr.Error(
                f"{job.error} {job.hint}".strip() or f"The job was {job.state}.", print_exception=False
            )
        return await run_in_threadpool(told, lambda: picture_json(studio, visit.picture(name)))

    def forecast(
        width: int = 1024, height: int = 1024, steps: int | None = None, model: str = DEFAULT_MODEL
    ) -> dict[str, Any]:
        """Seconds, bytes of memory and stages of a picture, before it is painted."""
        return told(lambda: forecast_json(studio, width, height, steps, model))

    def job(job_id: str, request: gr.Request | None = None) -> dict[str, Any]:
        """One job as it is now: state, phase, fraction, seconds left, error."""
        visit = visit_of(studio, request.headers if request else {})
        return told(lambda: job_json(studio, visit.watch(job_id)))

    gr.api(image, api_name="image", concurrency_limit=16)
    gr.api(forecast, api_name="forecast", concurrency_limit=16)
    gr.api(job, api_name="job", concurrency_limit=16)
