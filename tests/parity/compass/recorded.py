"""Recorded files of a kind, with the description beside them where there is one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.parity.cases import folder


@dataclass(frozen=True)
class Recorded:
    """One file of a kind; `path` is None when the kind has no file, and then every use fails the test."""

    kind: str
    path: Path | None

    def _found(self) -> Path:
        if self.path is None:
            pytest.fail(f"no recorded case of kind {self.kind} under {folder('compass')}")
        return self.path

    def json(self) -> Any:
        return json.loads(self._found().read_text(encoding="utf-8"))

    def tensors(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self._found())

    def described(self, meta: str) -> dict[str, Any]:
        """The description of a tensor file: `<meta>*.json` with the longest ending that both share."""
        own = self._found().stem
        files = sorted(folder("compass").glob(f"{meta}*.json"))
        if not files:
            pytest.fail(f"no recorded case of kind {meta} under {folder('compass')}")
        fitting = [file for file in files if own.endswith(file.stem.removeprefix(meta))]
        best = max(fitting or files, key=lambda file: len(file.stem))
        return json.loads(best.read_text(encoding="utf-8"))


def recorded(kind: str, ending: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: every file whose name begins with `kind`."""
    files = sorted(folder("compass").glob(f"{kind}*.{ending}"))
    found = [pytest.param(Recorded(kind, file), id=file.stem) for file in files]
    return found or [pytest.param(Recorded(kind, None), id=f"{kind}:none")]
