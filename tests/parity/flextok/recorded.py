"""Recorded cases of FlexTok: one `.json` file each, tensors beside it, models built from what it records."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.flextok.blocks import attention_mask
from pipelines.flextok.checkpoint import PREFIXES, ar_arguments, build_models, load_strictly
from pipelines.flextok.config import TokenizerSettings, read_tree
from pipelines.flextok.pipeline_flextok import FlexTokPipeline
from pipelines.flextok.transformer_flexar import FlexARModel
from tests.parity.cases import folder

FAMILY = "flextok"


@dataclass(frozen=True)
class Recorded:
    """A case; `file` is None when its kind has none."""

    kind: str
    file: Path | None

    @property
    def json(self) -> dict[str, Any]:
        if self.file is None:
            pytest.fail(f"no recorded case of kind {self.kind} under {folder(FAMILY)}")
        return json.loads(self.file.read_text(encoding="utf-8"))

    def tensors(self, part: str = "") -> dict[str, torch.Tensor]:
        """Tensors of the file `<case><part>.safetensors`."""
        if self.file is None:
            pytest.fail(f"no recorded case of kind {self.kind} under {folder(FAMILY)}")
        return load_file(self.file.with_name(f"{self.file.stem}{part}.safetensors"))


def discover(kind: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`, one per file of the kind, or one that fails."""
    files = [file for file in sorted(folder(FAMILY).glob(f"{kind}*.json")) if "." not in file.stem]
    return [pytest.param(Recorded(kind, file), id=file.stem) for file in files] or [
        pytest.param(Recorded(kind, None), id=f"{kind}:none")
    ]


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def tokenizer(case: Recorded) -> tuple[FlexTokPipeline, TokenizerSettings]:
    """The recorded tokenizer as a pipeline, every key of its state dict accounted for."""
    record = case.json
    settings = read_tree(record["config"])
    models = build_models(settings, record["vae_autoencoderkl_config"])
    weights = below(case.tensors("_weights"), "sd.")
    load_strictly({PREFIXES[name]: model for name, model in models.items()}, weights)
    pipeline = FlexTokPipeline(**models)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, settings


def autoregressive(case: Recorded) -> FlexARModel:
    """The recorded model, every key accounted for."""
    record, weights = case.json, below(case.tensors(), "sd.")
    shapes = {name.removeprefix("models."): tensor.shape for name, tensor in weights.items()}
    model = FlexARModel(**ar_arguments(shapes, record["heads"]))
    sizes = {name: getattr(model.config, name) for name in ("width", "depth", "vocab_size", "num_tokens")}
    expected = {"width": "dim", "depth": "depth", "vocab_size": "vocab", "num_tokens": "tokens"}
    assert sizes == {name: record[key] for name, key in expected.items()}
    load_strictly({"models.": model}, weights)
    return model


def packed_mask(samples: list[tuple[int, ...]], mode: str, padded: int) -> torch.Tensor:
    """Who sees whom when several samples share one padded sequence: only tokens of the same sample."""
    mask = torch.block_diag(*(attention_mask(parts, mode).to(torch.uint8) for parts in samples))
    room = padded - len(mask)
    return torch.nn.functional.pad(mask, (0, room, 0, room))


def packed(rows: torch.Tensor, padded: int) -> torch.Tensor:
    """`[1, padded, dim]` from the sequences `[B, S, dim]` of samples, one after another."""
    flat = rows.flatten(0, 1)[None]
    return torch.nn.functional.pad(flat, (0, 0, 0, padded - flat.shape[1]))


def guidance_scale(value: Any) -> Any:
    """A recorded number, or the function that a recorded formula in `t` stands for."""
    if not isinstance(value, str):
        return value
    code = compile(value, "guidance_scale", "eval")
    return lambda t: eval(code, {"__builtins__": {}, "math": math, "min": min, "max": max}, {"t": t})


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert float((ours.detach().float() - theirs.float()).abs().max()) <= tolerance
