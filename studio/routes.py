"""The studio over HTTP: plain routes with real status codes. `studio.api` has the named Gradio endpoints.

Answers are JSON unless said otherwise; a refusal is `{"error": sentence}` with a 4xx or 5xx status:
    GET  /healthz
    POST /studio/images                    an `ImageRequest` as JSON -> 202 {"job": id}
    POST /studio/jobs                      {"kind", "request"} -> 202 {"job": id}; GET lists (kind=, mine=)
    POST /studio/plans                     the same -> {"seconds", "memory_bytes", "warnings"}
    POST /studio/uploads                   a picture file as the body -> 201 {"source": name}
    POST /studio/tokens/splice             {"first", "second", "places"} -> {"strip"}
    POST /studio/relations                 {"prompt", and a change of its relations} -> {"prompt": text}
    GET  /studio/forecast?width=&height=   seconds, bytes and stages of a picture (also: steps, model)
    GET  /studio/overview?mine=ID,ID       state of the studio, jobs under way, newest pictures
    GET  /studio/jobs/ID                   one job now; .../preview (JPEG), .../unsaved.png, .../files/NAME
    POST /studio/jobs/ID/cancel, /retry and /forget
    GET  /studio/pictures/ID               settings and cost; ID.png (the file itself), ID/thumbnail, ID/zoom
    GET  /studio/pictures/ID/seen          what the eyes see in it
    GET  /studio/pictures/ID/judgement     whether it shows what its prompt says
    GET  /studio/pictures/ID/sentences     which sentences of its prompt it shows
    GET  /studio/pictures/ID/seams         how visible the borders of its tiles are
    POST /studio/pictures/ID/stages/INDEX  an earlier stage as a picture of its own -> {"job": id}
    POST /studio/pictures/ID/cut           the same seed with the prompt cut short -> {"job": id}
    POST /studio/pictures/ID/delete and /restore
    GET  /studio/assets/...                what the page is made of
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from studio.checks import check_integer, clean_prompt, parse_integer, shown
from studio.errors import StudioError
from studio.gallery.gallery import slug
from studio.gallery.results import MEDIA_TYPES
from studio.reading import changed_prompt
from studio.requests import DEFAULT_MODEL, REQUESTS, ImageRequest
from studio.requests import Request as AnyRequest
from studio.settings import REPOSITORY
from studio.studio import Studio
from studio.tokens import MAX_TOKENS, pack, unpack
from studio.ui.answers import forecast_json, job_json, overview_json, picture_json
from studio.ui.refusals import incident
from studio.ui.visitors import visit_of
from studio.visit import Visit

_FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
_LISTED = 60
MAX_UPLOAD_BYTES = 64 << 20
_NEVER = {"cache-control": "no-store"}

Handler = Callable[[Request], Awaitable[Response]]
Answer = Callable[[Visit, Request], Response]
Take = Callable[[Visit, Any], Response]


def routes(studio: Studio) -> list[BaseRoute]:
    """Every plain route, for the app that Gradio launches."""
    table: list[tuple[str, str, Answer]] = [
        ("GET", "/healthz", _health),
        ("GET", "/studio/forecast", _forecast),
        ("GET", "/studio/overview", _overview),
        ("GET", "/studio/jobs", _jobs),
        ("GET", "/studio/jobs/{id}", _job),
        ("GET", "/studio/jobs/{id}/preview", _preview),
        ("GET", "/studio/jobs/{id}/unsaved.png", _unsaved),
        ("GET", "/studio/jobs/{id}/files/{name}", _job_file),
        ("GET", "/studio/jobs/{id}/strip.fxtk", _strip),
        ("POST", "/studio/jobs/{id}/cancel", _cancel),
        ("POST", "/studio/jobs/{id}/retry", _retry),
        ("POST", "/studio/jobs/{id}/forget", _forget),
        ("GET", "/studio/pictures/{id}/seen", _seen),
        ("GET", "/studio/pictures/{id}/judgement", _judgement),
        ("GET", "/studio/pictures/{id}/sentences", _sentences),
        ("GET", "/studio/pictures/{id}/seams", _seams),
        ("POST", "/studio/pictures/{id}/stages/{index:int}", _stage),
        ("POST", "/studio/pictures/{id}/cut", _cut),
        ("POST", "/studio/pictures/{id}/delete", _delete),
        ("POST", "/studio/pictures/{id}/restore", _restore),
        ("GET", "/studio/pictures/{id}.png", _picture_file),
        ("GET", "/studio/pictures/{id}/thumbnail", _thumbnail),
        ("GET", "/studio/pictures/{id}/zoom", _zoom),
        ("GET", "/studio/pictures/{id}", _picture),
    ]
    made: list[BaseRoute] = [
        Route(path, _answering(studio, handle), methods=[method]) for method, path, handle in table
    ]
    taking: list[tuple[str, Take]] = [
        ("/studio/images", _submit),
        ("/studio/jobs", _submit_any),
        ("/studio/plans", _plan),
        ("/studio/relations", _change),
        ("/studio/tokens/splice", _splice),
    ]
    for path, take in taking:
        made.append(Route(path, _taking(studio, take), methods=["POST"]))
    made.append(Route("/studio/uploads", _bringing(studio), methods=["POST"]))
    made.append(Mount("/studio/assets", _Assets(directory=REPOSITORY / "assets" / "ui")))
    return made


class _Assets(StaticFiles):
    """Static files that a browser asks about each time, so that an updated studio never runs old scripts."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


def _answering(studio: Studio, handle: Answer) -> Handler:
    """A route around `handle`: off the event loop, every failure told in one sentence."""

    async def route(request: Request) -> Response:
        try:
            return await run_in_threadpool(handle, visit_of(studio, request.headers), request)
        except StudioError as error:
            return _refusal(error)
        except Exception:
            return _refusal(incident())

    return route


def _taking(studio: Studio, take: Take) -> Handler:
    """A route whose body is JSON."""

    async def route(request: Request) -> Response:
        # a form of another site can't send this content type without asking first
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return JSONResponse({"error": "The body must be application/json."}, 415)
        try:
            data = json.loads(await request.body())
        except (ValueError, RecursionError):
            return JSONResponse({"error": "The body is not readable JSON."}, 400)
        return await _answering(studio, lambda visit, _: take(visit, data))(request)

    return route


def _submit(visit: Visit, data: Any) -> Response:
    return JSONResponse({"job": visit.submit(ImageRequest.from_json(data))}, 202, _NEVER)


def _submit_any(visit: Visit, data: Any) -> Response:
    return JSONResponse({"job": visit.submit(_asked(data))}, 202, _NEVER)


def _plan(visit: Visit, data: Any) -> Response:
    plan = visit.plan(_asked(data))
    facts = {"seconds": plan.forecast.seconds, "memory_bytes": plan.forecast.memory_bytes}
    return JSONResponse({**facts, "warnings": plan.warnings}, headers=_NEVER)


def _asked(data: Any) -> AnyRequest:
    """The request in {"kind", "request"}."""
    kind = data.get("kind") if isinstance(data, Mapping) else data
    if not isinstance(kind, str) or kind not in REQUESTS:
        raise StudioError("bad_input", f"kind: given {shown(kind)}, allowed {', '.join(REQUESTS)}.")
    return REQUESTS[kind].from_json(data.get("request", {}))


def _change(visit: Visit, data: Any) -> Response:
    if not isinstance(data, Mapping):
        raise StudioError("bad_input", f"request: given {shown(data)}, allowed an object with named fields.")
    prompt = clean_prompt(data.get("prompt"), visit.studio.settings.max_prompt_chars)
    return JSONResponse({"prompt": changed_prompt(visit.studio.reader, prompt, data)}, headers=_NEVER)


def _splice(visit: Visit, data: Any) -> Response:
    if not isinstance(data, Mapping) or not isinstance(places := data.get("places"), list):
        raise StudioError("bad_input", "request: allowed an object with first, second and places.")
    if len(places) > MAX_TOKENS:
        raise StudioError("bad_input", f"places: given {len(places)}, allowed up to {MAX_TOKENS}.")
    for place in places:
        check_integer("places", place, 0, MAX_TOKENS - 1)
    first, second = unpack(data.get("first")), unpack(data.get("second"))
    return JSONResponse({"strip": pack(visit.studio.splice(first, second, places))}, headers=_NEVER)


def _bringing(studio: Studio) -> Handler:
    """A route that takes a picture file as its body, counted while it arrives."""

    async def route(request: Request) -> Response:
        # a form of another site can't send such a content type without asking first
        if not request.headers.get("content-type", "").startswith("image/"):
            return JSONResponse(
                {"error": "The body must be a picture (image/png, image/jpeg, image/webp)."}, 415
            )
        with SpooledTemporaryFile(max_size=1 << 20) as file:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_UPLOAD_BYTES:
                    limit = f"allowed up to {MAX_UPLOAD_BYTES >> 20} MB"
                    return _refusal(StudioError("too_large", f"The picture file is too large, {limit}."))
                await run_in_threadpool(file.write, chunk)
            file.seek(0)

            def keep(visit: Visit, _: Request) -> Response:
                name = studio.sources.add(cast(BinaryIO, file))
                return JSONResponse({"source": f"upload:{name}"}, 201, _NEVER)

            return await _answering(studio, keep)(request)

    return route


def _refusal(error: StudioError) -> Response:
    return JSONResponse({"error": str(error), "kind": error.kind}, error.http_status, _NEVER)


def _health(visit: Visit, request: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers=_NEVER)


def _forecast(visit: Visit, request: Request) -> Response:
    query = request.query_params
    steps = parse_integer("steps", query["steps"]) if query.get("steps") else None
    width, height = (parse_integer(name, query.get(name, "")) for name in ("width", "height"))
    return JSONResponse(
        forecast_json(visit.studio, width, height, steps, query.get("model", DEFAULT_MODEL)), headers=_NEVER
    )


def _overview(visit: Visit, request: Request) -> Response:
    mine = request.query_params.get("mine", "").split(",")
    return JSONResponse(overview_json(visit, mine), headers=_NEVER)


def _jobs(visit: Visit, request: Request) -> Response:
    kinds = request.query_params.get("kind", "picture").split(",")
    for kind in kinds:
        if kind not in REQUESTS:
            raise StudioError("bad_input", f"kind: given {shown(kind)}, allowed {', '.join(REQUESTS)}.")
    mine = request.query_params.get("mine", "").split(",")
    jobs = [job for kind in kinds for job in visit.jobs(_LISTED, mine[:_LISTED], REQUESTS[kind].kind)]
    newest = sorted(jobs, key=lambda job: job.id, reverse=True)[:_LISTED]
    return JSONResponse({"jobs": [job_json(visit.studio, job) for job in newest]}, headers=_NEVER)


def _job(visit: Visit, request: Request) -> Response:
    return JSONResponse(job_json(visit.studio, visit.watch(request.path_params["id"])), headers=_NEVER)


def _preview(visit: Visit, request: Request) -> Response:
    preview = visit.watch(request.path_params["id"]).preview
    if preview is None:
        # the job has ended since the page heard of the preview: nothing worth a complaint
        return Response(status_code=204, headers=_NEVER)
    return Response(preview, media_type="image/jpeg", headers=_NEVER)


def _unsaved(visit: Visit, request: Request) -> Response:
    name = request.path_params["id"]
    data = visit.unsaved_png(name)
    headers = {**_NEVER, "content-disposition": f'attachment; filename="{name}.png"'}
    return Response(data, media_type="image/png", headers=headers)


def _job_file(visit: Visit, request: Request) -> Response:
    path = visit.job_file(request.path_params["id"], request.path_params["name"])
    # a file of this name may still be written anew while the job goes on
    return _file(path, MEDIA_TYPES[path.suffix], {"cache-control": "private, no-cache"})


def _strip(visit: Visit, request: Request) -> Response:
    name, keep = request.path_params["id"], request.query_params.get("keep")
    data = visit.strip(name, parse_integer("keep", keep) if keep else None)
    headers = {**_NEVER, "content-disposition": f'attachment; filename="{name}.fxtk"'}
    return Response(data, media_type=MEDIA_TYPES[".fxtk"], headers=headers)


def _cancel(visit: Visit, request: Request) -> Response:
    return JSONResponse({"cancelled": visit.cancel(request.path_params["id"])}, headers=_NEVER)


def _retry(visit: Visit, request: Request) -> Response:
    return JSONResponse({"job": visit.retry(request.path_params["id"])}, headers=_NEVER)


def _forget(visit: Visit, request: Request) -> Response:
    visit.forget(request.path_params["id"])
    return JSONResponse({}, headers=_NEVER)


def _seen(visit: Visit, request: Request) -> Response:
    return JSONResponse(visit.seen(request.path_params["id"]), headers=_FOREVER)


def _judgement(visit: Visit, request: Request) -> Response:
    return JSONResponse(visit.judgement(request.path_params["id"]), headers=_FOREVER)


def _sentences(visit: Visit, request: Request) -> Response:
    return JSONResponse(visit.sentences(request.path_params["id"]), headers=_FOREVER)


def _seams(visit: Visit, request: Request) -> Response:
    return JSONResponse(visit.seams(request.path_params["id"]), headers=_FOREVER)


def _stage(visit: Visit, request: Request) -> Response:
    job = visit.stage(request.path_params["id"], request.path_params["index"])
    return JSONResponse({"job": job}, 202, _NEVER)


def _cut(visit: Visit, request: Request) -> Response:
    return JSONResponse({"job": visit.cut(request.path_params["id"])}, 202, _NEVER)


def _delete(visit: Visit, request: Request) -> Response:
    visit.delete(request.path_params["id"])
    return JSONResponse({}, headers=_NEVER)


def _restore(visit: Visit, request: Request) -> Response:
    picture = visit.restore(request.path_params["id"])
    return JSONResponse({"id": picture.id}, headers=_NEVER)


def _picture(visit: Visit, request: Request) -> Response:
    return JSONResponse(picture_json(visit.studio, visit.picture(request.path_params["id"])), headers=_NEVER)


def _picture_file(visit: Visit, request: Request) -> Response:
    picture = visit.picture(request.path_params["id"])
    kind = "attachment" if request.query_params.get("download") else "inline"
    name = f"{slug(picture.prompt)}-{picture.recipe.request.seed}.png"
    headers = {**_FOREVER, "content-disposition": f'{kind}; filename="{name}"'}
    return _file(picture.path, "image/png", headers)


def _thumbnail(visit: Visit, request: Request) -> Response:
    return _file(visit.picture(request.path_params["id"]).thumbnail, "image/webp", _FOREVER)


def _zoom(visit: Visit, request: Request) -> Response:
    picture = visit.picture(request.path_params["id"])
    if picture.zoom is None or not picture.zoom.is_file():
        return _file(picture.path, "image/png", _FOREVER)
    return _file(picture.zoom, "image/jpeg", _FOREVER)


def _file(path: Path, media_type: str, headers: dict[str, str]) -> Response:
    if path.is_symlink() or not path.is_file():
        raise StudioError("not_found", "The picture's file is gone.")
    return FileResponse(path, media_type=media_type, headers=headers)
