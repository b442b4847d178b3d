"""The self-test of the kernels, in the queue and from the shell."""

from __future__ import annotations

import json

import pytest

from studio.cli import main
from studio.doors import kernels
from studio.doors.doors import Doors
from studio.errors import StudioError
from studio.requests import SelftestRequest
from studio.settings import Settings
from studio.studio import Studio
from tests.studio.conftest import finished
from tests.studio.makers import FixedTester
from tests.studio.painters import DrawingPainter


def test_a_test_is_a_job_like_any_other(settings: Settings) -> None:
    tester = FixedTester()
    with Studio(settings, DrawingPainter(), Doors(tester=tester)) as studio:
        job = finished(studio, studio.submit(SelftestRequest()))
        assert (job.state, job.kind, job.image_id) == ("done", "selftest", None)
        assert job.result["device"] == "cpu" and tester.asked == ["bfloat16", "float32"]
        facts = job.result["dtypes"][1]
        assert facts["is_sound"] and facts["speed"]["dense_ms"] == 90.0
        assert facts["backends"][0]["relative_error"] == 2e-7
        assert set(job.seconds) == {"test", "measure"}
        assert [found.id for found in studio.jobs(kind="selftest")] == [job.id]
        assert studio.jobs(kind="picture") == [] and studio.gallery.count() == 0


def test_the_shell_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "PipelineTester", FixedTester)
    assert main(["kernels", "selftest", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["is_sound"] and [item["dtype"] for item in facts["dtypes"]] == ["bfloat16", "float32"]
    assert main(["kernels", "selftest"]) == 0
    text = capsys.readouterr().out
    assert (
        " * sdpa       ran      error 2.0e-07  3.5 ms" in text
        and "triton     refused  no CUDA device" in text
    )
    assert "(9.0 times as fast)" in text and "not timed: not now." in text


def test_a_wrong_back_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PipelineTester", lambda: FixedTester("failed"))
    assert main(["kernels", "selftest"]) == 1


def test_a_request_names_no_model() -> None:
    assert SelftestRequest.from_json(SelftestRequest().to_json()) == SelftestRequest()
    with pytest.raises(StudioError, match="model: given 'x'"):
        SelftestRequest.from_json({"model": "x"})


@pytest.mark.slow
def test_the_real_back_ends_agree_with_the_reference() -> None:
    tester = kernels.PipelineTester()
    found = {item.name: item for item in tester.backends("float32")}
    assert any(item.is_chosen and item.status == "ran" for item in found.values())
    assert all(item.status != "failed" for item in found.values()), found
