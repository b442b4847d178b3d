"""Recorded cases of this family: one file per case, tensors beside it under the same stem."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.cases import folder

FAMILY = "longalign"
MINI = "clip_mini"


@dataclass(frozen=True)
class Vectors:
    """One recorded file; `file` is None for a kind without any."""

    kind: str
    file: Path | None

    @cached_property
    def record(self) -> dict[str, Any]:
        if self.file is None:
            pytest.fail(f"no recorded case of kind {self.kind} under {folder(FAMILY)}")
        return json.loads(self.file.read_text(encoding="utf-8"))

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        assert self.record and self.file is not None
        path = self.file.with_suffix(".safetensors")
        return _whole(load_file(path)) if path.exists() else {}

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose names begin with `prefix`, without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def _whole(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo what keeps the small copy small: tables of which only the rows in use are stored (`<name>.rows`
    of `<name>.count`), and weights stored in half precision because that loses nothing."""
    tensors = {
        name: value.float() if value.dtype == torch.float16 and not name.startswith("lora.") else value
        for name, value in stored.items()
        if not name.endswith((".rows", ".count"))
    }
    for name in [name.removesuffix(".rows") for name in stored if name.endswith(".rows")]:
        table = torch.zeros(int(stored[f"{name}.count"]), tensors[name].shape[1])
        table[stored[f"{name}.rows"]] = tensors[name]
        tensors[name] = table
    return tensors


def every(kind: str, without: tuple[str, ...] = ()) -> Any:
    """Parametrize a test over the files of a kind; a kind without a case yields one that fails."""
    files = [
        path
        for path in sorted(folder(FAMILY).glob(f"{kind}*.json"))
        if not path.stem.startswith(without or ("\0",))
    ]
    cases = [pytest.param(Vectors(kind, path), id=path.stem) for path in files]
    return pytest.mark.parametrize("case", cases or [pytest.param(Vectors(kind, None), id=f"{kind}:none")])


class RecordedTokenizer:
    """Gives out recorded ids, text by text in the order of the calls: the vocabulary itself isn't there.

    Args:
        texts: ids of each text without marks; marks, stop, pad: ids of the vocabulary.
    """

    is_fast = True
    model_max_length = 77

    def __init__(self, texts: list[list[int]], marks: tuple[int, ...], stop: list[int], pad: int) -> None:
        self.texts, self.marks, self.stop = iter(texts), list(marks), stop
        self.bos_token_id = marks[0] if len(marks) == 2 else None
        self.eos_token_id, self.pad_token_id = marks[-1], pad

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        if isinstance(text, str):
            assert text == ""
            return _Answer(self.marks, None)
        ids = [self.stop if one == "." and len(text) == 1 else next(self.texts) for one in text]
        offsets = [[(0, min(1, len(one)))] * len(own) for one, own in zip(text, ids, strict=True)]
        return _Answer(ids, offsets)


@dataclass(frozen=True)
class _Answer:
    input_ids: Any
    offset_mapping: Any
