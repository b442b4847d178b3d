"""Recorded numbers of the authors' code: where they lie, and how tests find their cases.

`$TESSERA_PARITY_DIR/<family>` holds pairs `<kind><anything>.json` and `.safetensors`; the default is the
small copy in `data/`. Tests name kinds only, so that another set of the same schema runs without a change.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


def folder(family: str) -> Path:
    """Folder of a family's recorded cases."""
    chosen = os.environ.get("TESSERA_PARITY_DIR")
    return (Path(chosen) if chosen else Path(__file__).parent / "data") / family


@dataclass(frozen=True)
class Case:
    """One recorded case: an entry of a `.json` file, or the missing case of a kind.

    Attributes:
        file: the `.json` file; tensors lie beside it under the same stem.
        name: name of the entry.
        kind: what the file's name begins with.
    """

    file: Path
    name: str | None
    kind: str

    def record(self, section: str) -> dict[str, Any]:
        """The entry itself; fails the test when the kind has no case."""
        if self.name is None:
            pytest.fail(f"no recorded case of kind {self.kind} under {self.file}")
        return json.loads(self.file.read_text(encoding="utf-8"))[section][self.name]

    def tensors(self) -> dict[str, Any]:
        """All tensors of the file."""
        from safetensors.torch import load_file

        return load_file(self.file.with_suffix(".safetensors"))


def discover(family: str, kind: str, section: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: every entry of `section` in the files of a kind.

    A kind without a case yields one parameter whose test fails.
    """
    found = [
        pytest.param(Case(file, name, kind), id=f"{file.stem}:{name}")
        for file in sorted(folder(family).glob(f"{kind}*.json"))
        for name in json.loads(file.read_text(encoding="utf-8"))[section]
    ]
    return found or [pytest.param(Case(folder(family), None, kind), id=f"{kind}:none")]
