"""`doctor`: what this installation has, and what keeps it from painting."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from studio.doors import painting
from studio.errors import StudioError
from studio.gallery.files import check_writable
from studio.painter import Painter
from studio.recipes import versions
from studio.registry import Registry
from studio.settings import Settings

Verdict = Literal["ok", "note", "problem"]
_LOW_DISK_BYTES = 500 << 20
_MARKS: dict[Verdict, str] = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Finding:
    """One line of the report: "problem" keeps the studio from painting, "note" does not."""

    name: str
    verdict: Verdict
    text: str


def examine(settings: Settings, painter: Painter | None = None) -> list[Finding]:
    """Look at everything the studio needs. Slow only in importing torch (a few seconds).

    Args:
        settings: Folders, host and port to look at.
        painter: Reads manifests and checks model files. Default: the pipelines.
    """
    painter = painter or painting.PipelinePainter()
    found = [
        Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in versions().items())),
        Finding("system", "ok", f"{platform.system()} {platform.machine()}"),
        Finding("cores", "ok", f"{usable_cores()} usable"),
        _memory(),
        *_pipelines(),
        _folder("data folder", settings.data_dir),
        _port(settings.host, settings.port),
    ]
    return [*found, *_models(settings, painter)]


def report(arguments: argparse.Namespace) -> int:
    """Print the findings: 0 when the studio can paint, 1 when something keeps it from that."""
    findings = examine(Settings.from_env())
    healthy = all(finding.verdict != "problem" for finding in findings)
    if arguments.json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            print(f"{_MARKS[finding.verdict]} {finding.name}: {finding.text}")
    return 0 if healthy else 1


def usable_cores() -> int:
    """CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pipelines() -> list[Finding]:
    """What the pipelines say of themselves; a failure there is a line of the report, not its end."""
    try:
        return [Finding(name, "ok", str(text)) for name, text in _pipelines_report().items()]
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return [Finding("pipelines", "problem", f"{type(error).__name__}: {reason}")]


def _pipelines_report() -> Mapping[str, str]:
    """Device, precision and attention back end, one line each."""
    from pipelines import runtime

    report: Mapping[str, str] = runtime.report()
    return report


def _memory() -> Finding:
    total, free = _memory_bytes()
    if total is None:
        return Finding("memory", "note", "the system does not tell")
    left = "" if free is None else f", {free / 1e9:.1f} GB free"
    return Finding("memory", "ok", f"{total / 1e9:.1f} GB{left}")


def _memory_bytes() -> tuple[int | None, int | None]:
    facts: dict[str, int] = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            facts[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    return facts.get("MemTotal"), facts.get("MemAvailable")


def _folder(name: str, folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "trial.png")
        free = shutil.disk_usage(folder).free
    except (OSError, StudioError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return Finding(name, "problem", f"{folder} can't be written ({reason}); set TESSERA_DATA_DIR")
    low = free < _LOW_DISK_BYTES
    return Finding(name, "note" if low else "ok", f"{folder}, {free / 1e9:.1f} GB free")


def _port(host: str, port: int) -> Finding:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            # a port in TIME_WAIT counts as free, as it does for the server
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        return Finding("port", "note", f"{host}:{port} is taken or not allowed ({error.strerror or error})")
    return Finding("port", "ok", f"{host}:{port} is free")


def _models(settings: Settings, painter: Painter) -> list[Finding]:
    try:
        cards = Registry(settings, painter).cards(verify=True)
    except StudioError as error:
        return [Finding("models", "problem", str(error))]
    found = [
        Finding(f"model {card.name}", "problem", f"{card.state}: {card.problems[0]}")
        if card.state != "ok"
        else Finding(f"model {card.name}", "ok", f"{card.family}, {card.size_bytes / 1e6:.1f} MB")
        for card in cards
    ]
    if not any(card.paints and card.state == "ok" for card in cards):
        found.append(Finding("models", "problem", f"none that paints pictures in {settings.weights_dir}"))
    return found
