"""The doctor reports every part, and its exit code says whether the studio can paint."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from studio import doctor
from studio.cli import main
from studio.doctor import Finding, examine, usable_cores
from studio.settings import Settings
from tests.studio.painters import DrawingPainter


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # importing torch to ask for the device takes seconds
    monkeypatch.setattr(doctor, "_pipelines_report", lambda: {"device": "cpu", "attention": "sdpa"})


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(settings, DrawingPainter())}


def test_a_healthy_installation(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    found = findings(replace(settings, port=free))
    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(found, "ok")
    assert (found["device"].text, found["attention"].text) == ("cpu", "sdpa")
    assert "torch" in found["versions"].text and found["cores"].text == f"{usable_cores()} usable"
    assert found["port"].text == f"127.0.0.1:{free} is free" and "GB free" in found["memory"].text
    assert found["model storybook-flux"].text == "FluxPipeline, 0.0 MB"
    assert not list(settings.data_dir.iterdir()), "the trial file is gone"


def test_every_problem_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, str]:
        raise ImportError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "_pipelines_report", broken)
    (settings.weights_dir / "storybook-flux" / "unet.safetensors").unlink()
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = findings(replace(settings, port=server.getsockname()[1], data_dir=Path("/proc/tessera")))
    assert found["port"].verdict == "note", "serving takes the next free port"
    problems = {name for name, finding in found.items() if finding.verdict == "problem"}
    assert problems == {"pipelines", "data folder", "model storybook-flux", "models"}
    assert found["pipelines"].text == "ImportError: libtorch.so: cannot open shared object file"
    assert found["model storybook-flux"].text == "damaged: file unet.safetensors is not there."


def test_an_unreadable_manifest_is_a_line_of_the_report(settings: Settings) -> None:
    (settings.weights_dir / "MANIFEST.json").write_text("{")
    (finding,) = [line for line in examine(settings) if line.name == "models"]
    assert finding.verdict == "problem" and finding.text.startswith(
        "The weights' MANIFEST.json can't be read."
    )


def test_little_disk_is_a_note(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LOW_DISK_BYTES", 1 << 62)
    assert findings(settings)["data folder"].verdict == "note"


def test_exit_code_and_json(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.doors.painting.PipelinePainter", DrawingPainter)
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(settings.weights_dir))
    monkeypatch.setenv("TESSERA_DATA_DIR", str(settings.data_dir))
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True and {"name", "verdict", "text"} == set(report["findings"][0])
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(settings.data_dir / "none"))
    assert main(["doctor"]) == 1
    assert "PROBLEM models: none that paints pictures in" in capsys.readouterr().out
