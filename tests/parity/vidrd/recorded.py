"""Recorded cases of VidRD: one `.json` file each, tensors beside it, found by what their names begin with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.parity.cases import folder

FAMILY = "vidrd"


@dataclass(frozen=True)
class Recorded:
    """A file of a kind; `file` is None when there is none: whatever is asked of it then fails the test."""

    kind: str
    file: Path | None

    def _file(self) -> Path:
        if self.file is None:
            pytest.fail(f"no recorded case of kind {self.kind} under {folder(FAMILY)}")
        return self.file

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self._file().read_text(encoding="utf-8"))

    def tensors(self, named: str | None = None) -> dict[str, torch.Tensor]:
        """Tensors of the file that the record names, or of the one beside it."""
        name = self.json[named] if named else self._file().with_suffix(".safetensors").name
        return load_file(self._file().with_name(name))


def discover(kind: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`, one per file of the kind, or one that fails."""
    files = sorted(folder(FAMILY).glob(f"{kind}*.json"))
    return [pytest.param(Recorded(kind, file), id=file.stem) for file in files] or [
        pytest.param(Recorded(kind, None), id=f"{kind}:none")
    ]
