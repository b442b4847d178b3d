"""What the studio tells about jobs, pictures and itself, as plain JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from studio.checks import check_side
from studio.crafts.guides import guide_name
from studio.errors import StudioError
from studio.gallery.index import Picture
from studio.jobs.snapshot import JobSnapshot
from studio.recipes import Recipe
from studio.registry import Ability
from studio.requests import DEFAULT_MODEL, ImageRequest, Kind
from studio.studio import Studio
from studio.ui.snippets import as_python, as_shell
from studio.visit import Visit

_NEWEST = 40
_MAX_MINE = 60


def overview_json(visit: Visit, mine: list[str]) -> dict[str, Any]:
    """What the strip and the header show; `mine` are the jobs that the asking browser started."""
    under_way = [job for job in visit.studio.jobs(_NEWEST) if not job.is_final]
    jobs = [job for job in visit.jobs(_NEWEST, mine[:_MAX_MINE], "picture") if not job.is_final]
    pictures, total = visit.pictures(_NEWEST, mine[:_MAX_MINE])
    return {
        "status": {
            **_status(visit.studio, {job.kind for job in under_way if job.state == "running"}),
            "rooms": _rooms(visit.studio),
        },
        "jobs": [
            {"id": job.id, "state": job.state, "fraction": job.fraction, "prompt": job.request.title}
            for job in jobs
        ],
        "pictures": [
            {"id": picture.id, "prompt": picture.prompt, "width": picture.width, "height": picture.height}
            for picture in pictures
        ],
        "total": total,
    }


def _rooms(studio: Studio) -> list[str]:
    """Rooms besides the first; one that needs a model is there only when the model is."""
    rooms: list[tuple[str, Ability]] = [("tokens", "tokens"), ("video", "video")]
    return [*(room for room, ability in rooms if studio.registry.has(ability)), "kernels"]


def _status(studio: Studio, running: set[Kind]) -> dict[str, str]:
    """Whether the studio can paint, and what it does: `running` are the kinds of the jobs under way."""
    try:
        card = studio.registry.paintable(DEFAULT_MODEL)
    except StudioError:
        usable = [card for card in studio.registry.cards() if card.paints and card.state == "ok"]
        if not usable:
            return {"state": "missing", "model": "", "text": "no model installed"}
        card = usable[0]
    if running:
        text = "painting" if running & {"picture", "video"} else "working"
        return {"state": "busy", "model": card.name, "text": text}
    return {"state": "ready", "model": card.name, "text": "ready"}


def job_json(studio: Studio, job: JobSnapshot) -> dict[str, Any]:
    """A job as the page and the endpoint /job tell it; `plan` lists (width, height) of the stages to come."""
    # asdict would copy the preview's bytes
    data = {name: value for name, value in vars(job).items() if name not in ("preview", "owner", "request")}
    facts = {"kind": job.kind, "request": job.request.to_json(), "is_final": job.is_final}
    return {**data, **facts, "plan": _plan(studio, job)}


def _plan(studio: Studio, job: JobSnapshot) -> tuple[tuple[int, int], ...]:
    request = job.request
    if not isinstance(request, ImageRequest):
        return ()
    try:
        return studio.forecast(request.width, request.height, request.steps, request.model).stages
    except StudioError:
        return ()


def picture_json(studio: Studio, picture: Picture) -> dict[str, Any]:
    """A picture's settings, cost and code."""
    recipe = picture.recipe
    try:
        card = studio.registry.card(recipe.request.model)
    except StudioError:
        card = None
    return {
        "id": picture.id,
        "url": f"/studio/pictures/{picture.id}.png",
        "request": recipe.request.to_json(),
        "prompt": recipe.prompt,
        "seconds": recipe.seconds,
        "memory_bytes": recipe.peak_bytes or _memory(studio, recipe),
        "is_measured": bool(recipe.peak_bytes),
        "stages": recipe.stages,
        "guides": _guides(studio, picture),
        "backend": recipe.backend,
        "device": recipe.device,
        "dtype": recipe.dtype,
        "model": recipe.request.model,
        "steps": recipe.steps,
        "warnings": recipe.warnings,
        "unknown_words": recipe.unknown_words,
        "file_bytes": picture.path.stat().st_size if picture.path.is_file() else 0,
        "search": _search(studio, picture),
        "can_be_seen": card is not None and card.embedded and studio.registry.has("eyes"),
        "cut_at": studio.cut_at(recipe),
        "has_borders": studio.meters.has_borders(recipe.request.width, recipe.request.height),
        "python": as_python(recipe, card),
        "shell": as_shell(recipe),
    }


def _guides(studio: Studio, picture: Picture) -> list[str]:
    """Addresses of what the stages before the last looked like; "" for one that was not kept."""
    found = []
    for stage in range(1, len(picture.recipe.stages)):
        try:
            name = studio.results.path(picture.id, guide_name(stage)).name
        except StudioError:
            found.append("")
        else:
            found.append(f"jobs/{picture.id}/files/{name}")
    return found


def _search(studio: Studio, picture: Picture) -> dict[str, Any]:
    """The search a verified picture came from, as long as its job is known; {} for others."""
    try:
        return studio.watch(picture.id).result
    except StudioError:
        return {}


def _memory(studio: Studio, recipe: Recipe) -> int:
    """Bytes such a picture needs, 0 when its model is not here any more."""
    request = recipe.request
    try:
        return studio.forecast(request.width, request.height, recipe.steps, request.model).memory_bytes
    except StudioError:
        return 0


def forecast_json(studio: Studio, width: int, height: int, steps: int | None, model: str) -> dict[str, Any]:
    """What a picture will take; the values may come straight from outside."""
    check_side("width", width, studio.settings.max_side)
    check_side("height", height, studio.settings.max_side)
    forecast = studio.forecast(width, height, steps, model)
    return {**asdict(forecast), "sentence": forecast.sentence}
