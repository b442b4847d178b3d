"""The self-test of the attention kernels: which back ends run here, how exact and how fast they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from studio.crafts.craft import Forecast, News, Plan
from studio.crafts.reports import Report
from studio.jobs.records import JobRecord, Outcome
from studio.painter import PaintingStopped
from studio.requests import SelftestRequest

_SECONDS = 6.0


@dataclass(frozen=True)
class BackendFacts:
    """What one back end did.

    Args:
        name: For instance "sdpa".
        status: "ran", "refused" (it can't run here) or "failed" (it was wrong, or raised).
        reason: Why it was refused or failed; for one that ran, whether it is taken by itself.
        is_chosen: Whether it is the one that is taken here.
        max_error, relative_error: Against the reference in double precision, None unless it ran.
        duration_ms: One call, None unless it ran.
    """

    name: str
    status: str
    reason: str
    is_chosen: bool
    max_error: float | None
    relative_error: float | None
    duration_ms: float | None


@dataclass(frozen=True)
class SpeedFacts:
    """Local against dense attention over `tokens` tokens, both in milliseconds; or why there is no figure."""

    tokens: int = 0
    dense_ms: float = 0.0
    local_ms: float = 0.0
    refusal: str = ""


@dataclass(frozen=True)
class DtypeFacts:
    """All back ends in one precision."""

    dtype: str
    backends: tuple[BackendFacts, ...]
    speed: SpeedFacts

    @property
    def is_sound(self) -> bool:
        """Whether the back end that is taken is exact, and none was wrong."""
        has_chosen = any(found.is_chosen and found.status == "ran" for found in self.backends)
        return has_chosen and all(found.status != "failed" for found in self.backends)


class Tester(Protocol):
    """What tests. The real one is `studio.doors.kernels.PipelineTester`."""

    def device(self) -> str:
        """Where pictures are painted here, for instance "cpu"."""

    def dtypes(self) -> tuple[str, ...]:
        """Precisions worth testing here, the one that painting uses first."""

    def backends(self, dtype: str) -> tuple[BackendFacts, ...]:
        """Try all back ends."""

    def speed(self, dtype: str) -> SpeedFacts:
        """Time the one that is taken against dense attention."""


@dataclass(frozen=True)
class Tested:
    """A finished self-test; it fulfils `Product`."""

    device: str
    dtypes: tuple[DtypeFacts, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    peak_bytes: int = 0

    @property
    def result(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {"device": self.device, "dtypes": [_dtype_json(facts) for facts in self.dtypes]}

    @property
    def is_sound(self) -> bool:
        """Whether every precision is."""
        return all(facts.is_sound for facts in self.dtypes)


def _dtype_json(facts: DtypeFacts) -> dict[str, Any]:
    return {**asdict(facts), "is_sound": facts.is_sound}


def run_selftest(tester: Tester, news: News) -> Tested:
    """Try every back end in every precision, then measure.

    Raises:
        PaintingStopped: `news.should_stop` said yes.
    """
    began = time.monotonic()
    dtypes = tester.dtypes()
    found: list[DtypeFacts] = []
    seconds: dict[str, float] = {}
    for number, dtype in enumerate(dtypes):
        for step, phase in enumerate(("test", "measure")):
            if news.should_stop():
                raise PaintingStopped
            done = 2 * number + step
            if news.report:
                news.report(
                    Report(phase, step=done, steps=2 * len(dtypes), fraction=done / (2 * len(dtypes)))
                )
            if phase == "test":
                backends = tester.backends(dtype)
            else:
                found.append(DtypeFacts(dtype, backends, tester.speed(dtype)))
            now = time.monotonic()
            seconds[phase] = seconds.get(phase, 0.0) + now - began
            began = now
    return Tested(tester.device(), tuple(found), seconds)


class SelftestCraft:
    """`run_selftest` as the queue uses it; it fulfils `Craft`.

    Args:
        tester: Does the work.
    """

    resumes = False

    def __init__(self, tester: Tester) -> None:
        self._tester = tester

    def check(self, request: SelftestRequest) -> Plan:
        """There is nothing to refuse."""
        return Plan(request, request.title, None, Forecast(_SECONDS, 1 << 29, (), True), (), ())

    def make(self, record: JobRecord, plan: Plan, news: News) -> Tested:
        """See `run_selftest`."""
        return run_selftest(self._tester, news)

    def save(self, record: JobRecord, product: Tested, keep_going: Callable[[], bool]) -> None:
        """The record has all of it."""

    def recover(self, record: JobRecord) -> Outcome | None:
        """A test that was cut short is no test."""
        return None

    def room_bytes(self, request: SelftestRequest) -> int:
        """Bytes on disk."""
        return 0
