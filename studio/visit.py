"""The studio as one visitor sees it: on a shared studio nobody reads, stops or deletes what is another's.

A visitor is known by a secret that only their browser has; the studio keeps its hash. What was asked for
without one (a script that calls the interface) belongs to nobody in particular: whoever knows its unguessable
identifier may use it. On a studio of one's own everything is open to its one user.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.crafts.craft import Plan
from studio.errors import StudioError
from studio.gallery.index import Picture
from studio.jobs.snapshot import JobSnapshot
from studio.recipes import Recipe, open_picture
from studio.requests import Kind, Request, TokenEncodeRequest, VideoRequest, split_source
from studio.scoring import sentences_json
from studio.studio import Studio

if TYPE_CHECKING:
    from PIL import Image

_KEY = re.compile(r"[A-Za-z0-9_-]{22,86}", re.ASCII)


def new_visitor_key() -> str:
    """A secret for a browser that has none."""
    return secrets.token_urlsafe(32)


def owner_of(key: str | None) -> str:
    """What is stored with a visitor's jobs; "" for no key, or one that no browser of ours has."""
    return hashlib.sha256(key.encode()).hexdigest()[:32] if key and _KEY.fullmatch(key) else ""


class Visit:
    """What `Studio` offers, for one visitor. What is another's is "not_found", as if there were none.

    Args:
        studio: What answers.
        key: The visitor's secret, None or "" without one.
    """

    def __init__(self, studio: Studio, key: str | None = None) -> None:
        self.studio = studio
        self._is_shared = studio.settings.is_shared
        self._owner = owner_of(key) if self._is_shared else ""

    def submit(self, request: Request) -> str:
        """See `Studio.submit`; what the request works on has to be the visitor's own, too."""
        self._check_own(request)
        return self.studio.submit(request, self._owner)

    def plan(self, request: Request) -> Plan:
        """See `Studio.plan`."""
        self._check_own(request)
        return self.studio.plan(request)

    def _check_own(self, request: Request) -> None:
        if isinstance(request, TokenEncodeRequest):
            self._check_source(request.source)
        elif isinstance(request, VideoRequest):
            self._check_source(request.start)
            if request.redo is not None:
                self.watch(request.redo[0])

    def _check_source(self, source: str | None) -> None:
        # a picture that was brought along is known by its unguessable name alone
        if source is not None and source.startswith("picture:"):
            self.picture(split_source(source)[1])

    def watch(self, job_id: str) -> JobSnapshot:
        """See `Studio.watch`."""
        job = self.studio.watch(job_id)
        if not self._may_see(job.owner):
            raise StudioError("not_found", "There is no such job.")
        return job

    def cancel(self, job_id: str) -> bool:
        """See `Studio.cancel`."""
        return self.studio.cancel(self.watch(job_id).id)

    def retry(self, job_id: str) -> str:
        """See `Studio.retry`."""
        return self.studio.retry(self.watch(job_id).id)

    def forget(self, job_id: str) -> None:
        """See `Studio.forget`."""
        self.studio.forget(self.watch(job_id).id)

    def job_file(self, job_id: str, name: str) -> Path:
        """See `Results.path`."""
        return self.studio.results.path(self.watch(job_id).id, name)

    def strip(self, job_id: str, keep: int | None) -> bytes:
        """The token file of a job, or of its first `keep` tokens."""
        return self.studio.cut_strip(self.job_file(job_id, "strip.fxtk").read_bytes(), keep)

    def judgement(self, image_id: str) -> dict[str, Any]:
        """What a picture says about its prompt, as plain JSON values; {} when nothing can be told.

        Raises:
            StudioError: no such picture.
        """
        recipe, image = self._opened(image_id)
        found = self.studio.pictures.judge(recipe, image)
        return found.to_json() if found else {}

    def sentences(self, image_id: str) -> dict[str, Any]:
        """What a picture says about each sentence of its prompt, as plain JSON values.

        Raises:
            StudioError: no such picture.
        """
        return sentences_json(self.studio.sentences(*self._opened(image_id)))

    def unsaved_png(self, job_id: str) -> bytes:
        """See `Studio.unsaved_png`."""
        return self.studio.unsaved_png(self.watch(job_id).id)

    def picture(self, image_id: str) -> Picture:
        """See `Gallery.get`."""
        picture = self.studio.gallery.get(image_id)
        if not self._may_see(picture.owner):
            raise StudioError("not_found", "There is no such picture in the gallery.")
        return picture

    def _opened(self, image_id: str) -> tuple[Recipe, Image.Image]:
        """How a picture was made, and its pixels in memory."""
        picture = self.picture(image_id)
        with open_picture(picture.path) as image:
            image.load()
            return picture.recipe, image

    def seen(self, image_id: str) -> dict[str, Any]:
        """What the eyes see in a picture of Storybook's world, as plain JSON values.

        Raises:
            StudioError: no such picture, or no eyes here.
        """
        return self.studio.eyes.look([self._opened(image_id)[1]])[0].to_json()

    def stage(self, image_id: str, index: int) -> str:
        """The job that paints, or painted, an earlier stage of a picture; see `Studio.stage_request`."""
        return self._painted(self.studio.stage_request(self.picture(image_id).recipe, index))

    def _painted(self, request: Request) -> str:
        """The job whose picture is in the gallery already, or a new one."""
        known = self.studio.find_done(request, self._owner)
        return known if known and self.studio.gallery.has(known) else self.submit(request)

    def cut(self, image_id: str) -> str:
        """The job that paints, or painted, a picture's prompt cut short; see `Studio.cut_request`."""
        return self._painted(self.studio.cut_request(self.picture(image_id).recipe))

    def seams(self, image_id: str) -> dict[str, Any]:
        """What the seam meter says about a picture, as plain JSON values.

        Raises:
            StudioError: no such picture.
        """
        return self.studio.meters.seams(self._opened(image_id)[1]).to_json()

    def delete(self, image_id: str) -> None:
        """See `Gallery.delete`."""
        self.studio.gallery.delete(self.picture(image_id).id)

    def restore(self, image_id: str) -> Picture:
        """See `Gallery.restore`."""
        if not self._may_see(self.studio.gallery.get(image_id, deleted=True).owner):
            raise StudioError("not_found", "There is no such picture in the trash.")
        return self.studio.gallery.restore(image_id)

    def jobs(self, limit: int, mine: list[str], kind: Kind | None = None) -> list[JobSnapshot]:
        """Newest jobs; on a shared studio the visitor's own, and those of `mine` that belong to nobody."""
        jobs = self.studio.jobs(500 if self._is_shared else limit, kind)
        return [job for job in jobs if not self._is_shared or self._is_own(job.id, job.owner, mine)][:limit]

    def pictures(self, limit: int, mine: list[str]) -> tuple[list[Picture], int]:
        """Newest pictures and how many there are; chosen as for `jobs`."""
        gallery = self.studio.gallery
        if not self._is_shared:
            return gallery.recent(limit), gallery.count()
        found = {picture.id: picture for picture in (gallery.of_owner(self._owner) if self._owner else [])}
        for name in mine:
            if name not in found and gallery.has(name) and self._is_own(name, gallery.get(name).owner, mine):
                found[name] = gallery.get(name)
        newest = sorted(found, reverse=True)
        return [found[name] for name in newest[:limit]], len(newest)

    def _is_own(self, name: str, owner: str, mine: list[str]) -> bool:
        return owner == self._owner != "" or (not owner and name in mine)

    def _may_see(self, owner: str) -> bool:
        return not self._is_shared or owner in ("", self._owner)
