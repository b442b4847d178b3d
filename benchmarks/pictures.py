"""Seconds per phase and peak memory of whole pictures, each in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROMPT = "a red ball in a meadow"


def picture_rows(size: str) -> list[dict[str, Any]]:
    """Paint one picture through the shell interface and return what it reports, as one row.

    Raises:
        RuntimeError: the command failed (its message).
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "picture.png"
        command = [sys.executable, "-m", "studio", "image", PROMPT, "--size", size, "--seed", "1"]
        done = subprocess.run(
            [*command, "--out", str(out), "--json"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{size}: {done.stderr.strip()}")
        report = json.loads(done.stdout)
    return [{"size": size, "seconds": report["seconds"], "peak_gib": round(report["peak_bytes"] / 2**30, 2)}]
