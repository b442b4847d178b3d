"""The studio over HTTP: plain routes with real status codes, and the same requests as named Gradio endpoints.

Routes (JSON unless said otherwise; a refusal is `{"error": sentence}` with a 4xx or 5xx status):
    GET  /healthz
    POST /studio/images                    an `ImageRequest` as JSON -> 202 {"job": id}
    GET  /studio/forecast?width=&height=   seconds, bytes and stages of a picture (also: steps, model)
    GET  /studio/overview?mine=ID,ID       state of the studio, jobs under way, newest pictures
    GET  /studio/jobs/ID                   one job now; .../preview (JPEG), .../unsaved.png
    POST /studio/jobs/ID/cancel and /retry
    GET  /studio/pictures/ID               settings and cost; ID.png (the file itself), ID/thumbnail, ID/zoom
    GET  /studio/assets/...                what the page is made of
Named Gradio endpoints: /image, /forecast, /job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from studio.errors import StudioError
from studio.gallery.gallery import slug
from studio.requests import DEFAULT_MODEL, ImageRequest, parse_integer
from studio.settings import REPOSITORY
from studio.studio import Studio
from studio.ui.answers import forecast_json, job_json, overview_json, picture_json
from studio.ui.refusals import incident, told

_WATCH_S = 0.25
_FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
_NEVER = {"cache-control": "no-store"}

Handler = Callable[[Request], Awaitable[Response]]


def routes(studio: Studio) -> list[BaseRoute]:
    """Every plain route, for the app that Gradio launches."""
    table: list[tuple[str, str, Callable[[Studio, Request], Response]]] = [
        ("GET", "/healthz", _health),
        ("GET", "/studio/forecast", _forecast),
        ("GET", "/studio/overview", _overview),
        ("GET", "/studio/jobs/{id}", _job),
        ("GET", "/studio/jobs/{id}/preview", _preview),
        ("GET", "/studio/jobs/{id}/unsaved.png", _unsaved),
        ("POST", "/studio/jobs/{id}/cancel", _cancel),
        ("POST", "/studio/jobs/{id}/retry", _retry),
        ("GET", "/studio/pictures/{id}.png", _picture_file),
        ("GET", "/studio/pictures/{id}/thumbnail", _thumbnail),
        ("GET", "/studio/pictures/{id}/zoom", _zoom),
        ("GET", "/studio/pictures/{id}", _picture),
    ]
    made: list[BaseRoute] = [
        Route(path, _answering(studio, handle), methods=[method]) for method, path, handle in table
    ]
    made.append(Route("/studio/images", _submitting(studio), methods=["POST"]))
    made.append(Mount("/studio/assets", _Assets(directory=REPOSITORY / "assets" / "ui")))
    return made


class _Assets(StaticFiles):
    """Static files that a browser asks about each time, so that an updated studio never runs old scripts."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


def _answering(studio: Studio, handle: Callable[[Studio, Request], Response]) -> Handler:
    """A route around `handle`: off the event loop, every failure told in one sentence."""

    async def route(request: Request) -> Response:
        try:
            return await run_in_threadpool(handle, studio, request)
        except StudioError as error:
            return _refusal(error)
        except Exception:
            return _refusal(incident())

    return route


def _submitting(studio: Studio) -> Handler:
    async def route(request: Request) -> Response:
        # a form of another site can't send this content type without asking first
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return JSONResponse({"error": "The body must be application/json."}, 415)
        try:
            data = json.loads(await request.body())
        except (ValueError, RecursionError):
            return JSONResponse({"error": "The body is not readable JSON."}, 400)
        submit = _answering(studio, lambda studio, _: _submit(studio, data))
        return await submit(request)

    return route


def _submit(studio: Studio, data: Any) -> Response:
    return JSONResponse({"job": studio.submit(ImageRequest.from_json(data))}, 202, _NEVER)


def _refusal(error: StudioError) -> Response:
    return JSONResponse({"error": str(error), "kind": error.kind}, error.http_status, _NEVER)


def _health(studio: Studio, request: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers=_NEVER)


def _forecast(studio: Studio, request: Request) -> Response:
    query = request.query_params
    steps = parse_integer("steps", query["steps"]) if query.get("steps") else None
    width, height = (parse_integer(name, query.get(name, "")) for name in ("width", "height"))
    return JSONResponse(
        forecast_json(studio, width, height, steps, query.get("model", DEFAULT_MODEL)), headers=_NEVER
    )


def _overview(studio: Studio, request: Request) -> Response:
    mine = request.query_params.get("mine", "").split(",")
    return JSONResponse(overview_json(studio, mine), headers=_NEVER)


def _job(studio: Studio, request: Request) -> Response:
    return JSONResponse(job_json(studio, studio.watch(request.path_params["id"])), headers=_NEVER)


def _preview(studio: Studio, request: Request) -> Response:
    preview = studio.watch(request.path_params["id"]).preview
    if preview is None:
        # the job has ended since the page heard of the preview: nothing worth a complaint
        return Response(status_code=204, headers=_NEVER)
    return Response(preview, media_type="image/jpeg", headers=_NEVER)


def _unsaved(studio: Studio, request: Request) -> Response:
    name = request.path_params["id"]
    data = studio.unsaved_png(name)
    headers = {**_NEVER, "content-disposition": f'attachment; filename="{name}.png"'}
    return Response(data, media_type="image/png", headers=headers)


def _cancel(studio: Studio, request: Request) -> Response:
    return JSONResponse({"cancelled": studio.cancel(request.path_params["id"])}, headers=_NEVER)


def _retry(studio: Studio, request: Request) -> Response:
    return JSONResponse({"job": studio.retry(request.path_params["id"])}, headers=_NEVER)


def _picture(studio: Studio, request: Request) -> Response:
    return JSONResponse(picture_json(studio, studio.gallery.get(request.path_params["id"])), headers=_NEVER)


def _picture_file(studio: Studio, request: Request) -> Response:
    picture = studio.gallery.get(request.path_params["id"])
    kind = "attachment" if request.query_params.get("download") else "inline"
    name = f"{slug(picture.prompt)}-{picture.recipe.request.seed}.png"
    headers = {**_FOREVER, "content-disposition": f'{kind}; filename="{name}"'}
    return _file(picture.path, "image/png", headers)


def _thumbnail(studio: Studio, request: Request) -> Response:
    return _file(studio.gallery.get(request.path_params["id"]).thumbnail, "image/webp", _FOREVER)


def _zoom(studio: Studio, request: Request) -> Response:
    picture = studio.gallery.get(request.path_params["id"])
    if picture.zoom is None or not picture.zoom.is_file():
        return _file(picture.path, "image/png", _FOREVER)
    return _file(picture.zoom, "image/jpeg", _FOREVER)


def _file(path: Path, media_type: str, headers: dict[str, str]) -> Response:
    if path.is_symlink() or not path.is_file():
        raise StudioError("not_found", "The picture's file is gone.")
    return FileResponse(path, media_type=media_type, headers=headers)


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
    ) -> dict[str, Any]:
        """Paint one picture and wait for it.

        Width and height are pixels, multiples of 16. The answer has the picture's `url` on this server, its
        settings, seconds per phase and warnings. A refusal is one sentence.
        """
        fields = {"prompt": prompt, "width": width, "height": height, "seed": seed, "steps": steps}
        ask = {**fields, "model": model, "style": style}
        name = await run_in_threadpool(told, lambda: studio.submit(ImageRequest.from_json(ask)))
        # sleeping here holds no thread, so that many callers may wait without stopping the page
        while not (job := await run_in_threadpool(told, lambda: studio.watch(name))).is_final:
            await asyncio.sleep(_WATCH_S)
        if job.state != "done":
            raise gr.Error(
                f"{job.error} {job.hint}".strip() or f"The job was {job.state}.", print_exception=False
            )
        return await run_in_threadpool(told, lambda: picture_json(studio, studio.gallery.get(name)))

    def forecast(
        width: int = 1024, height: int = 1024, steps: int | None = None, model: str = DEFAULT_MODEL
    ) -> dict[str, Any]:
        """Seconds, bytes of memory and stages of a picture, before it is painted."""
        return told(lambda: forecast_json(studio, width, height, steps, model))

    def job(job_id: str) -> dict[str, Any]:
        """One job as it is now: state, phase, fraction, seconds left, error."""
        return told(lambda: job_json(studio, studio.watch(job_id)))

    gr.api(image, api_name="image", concurrency_limit=16)
    gr.api(forecast, api_name="forecast", concurrency_limit=16)
    gr.api(job, api_name="job", concurrency_limit=16)
