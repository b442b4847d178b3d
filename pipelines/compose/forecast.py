"""Time and memory of a picture before it is painted, from counted work and a measured speed."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from pipelines.compose.few_steps import HIGH_RES_STEPS as FEW_HIGH_RES_STEPS
from pipelines.compose.few_steps import is_quick
from pipelines.compose.sketching import enlarger_of, is_distilled, sketch_facts, sketches
from pipelines.runtime import available_bytes
from pipelines.scale_dit.stages import DENSE_LIMIT, Stage, plan_stages
from pipelines.scale_dit.tiles import count_tiles

DEFAULT_STEPS = 20
HIGH_RES_STEPS = 8
LOCAL_KEYS = 240  # keys of an image token beyond the dense limit: its box, the text, the guide around it
TILE_FLOP = 9.0e10  # decoding one 512 px tile of the f8 autoencoder; encoding one takes about half of it
# a third above what was measured in bf16: 0.53 GB at 256 px, 0.71 at 1024, 1.43 at 4096x2304, 2.06 at 4096
BASE_BYTES = 800_000_000
BYTES_PER_TOKEN = 18_000
BYTES_PER_PIXEL = 50
FIRST_SPEED = 1.2e11  # FLOP/s assumed until this process has painted once

_speed = FIRST_SPEED


@dataclass(frozen=True)
class Forecast:
    """`seconds` and `memory_bytes` of a picture, its stages as (width, height), whether it fits in memory."""

    seconds: float
    memory_bytes: int
    stages: tuple[tuple[int, int], ...]
    fits: bool


@dataclass(frozen=True)
class Work:
    """FLOP of each phase: text, enlarging and painting of every stage, decoding."""

    encode: float
    resizes: tuple[float, ...]  # what comes before a stage's first step; none before the first stage
    stages: tuple[float, ...]
    decode: float

    @property
    def total(self) -> float:
        return self.encode + sum(self.resizes) + sum(self.stages) + self.decode


@lru_cache
def model_facts(folder: Path) -> tuple[int, int, int]:
    """(base size in px, width, parameters of the blocks) of a FLUX-type folder, from its configs alone.

    Raises:
        ValueError: the folder's configs can't be read.
    """
    try:
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        config = json.loads((folder / "transformer" / "config.json").read_text())
        base = round(scheduler["max_image_seq_len"] ** 0.5) * 16
        width = config["num_attention_heads"] * config["attention_head_dim"]
        per_token = (12 * config["num_layers"] + 12 * config["num_single_layers"]) * width * width
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a FLUX-type model folder ({error!r})") from error
    return base, width, per_token


def count_work(folder: Path, width: int, height: int, steps: int) -> tuple[tuple[Stage, ...], Work]:
    """Stages and their work: the first runs twice a step (guidance), others encode their guide once.

    Raises:
        ValueError: an unreadable folder, or a size that this model can't paint.
    """
    if sketches(folder):
        return _count_sketched(folder, width, height, steps)
    base, channels, per_token = model_facts(folder)
    stages = plan_stages(height, width, base)
    resizes, flop = [], []
    for index, stage in enumerate(stages):
        guide = stages[index - 1].tokens if index else 0
        keys = stage.tokens + guide if stage.tokens <= DENSE_LIMIT else LOCAL_KEYS
        layers = per_token / (12 * channels * channels)
        step = stage.tokens * (2 * per_token + 4 * channels * keys * layers)
        if index:  # the stage before is decoded, enlarged and encoded again
            resizes.append(decode_work(stages[index - 1]) + decode_work(stage) / 2)
            flop.append(step * high_res_steps(folder, steps) + 2 * per_token * guide)
        else:
            resizes.append(0.0)
            flop.append(step * steps * (1 if is_quick(folder, steps) else 2))
    return stages, Work(2e9, tuple(resizes), tuple(flop), decode_work(stages[-1]))


def _count_sketched(folder: Path, width: int, height: int, steps: int) -> tuple[tuple[Stage, ...], Work]:
    """Stages and work where Stable Diffusion paints the first one."""
    side, unet_bytes = sketch_facts(folder)
    enlarger = enlarger_of(folder)
    if enlarger is None:
        stages = plan_stages(height, width, side)
        if len(stages) > 1:
            raise ValueError(
                f"given {width}x{height}, allowed about {side}x{side}: nothing enlarges what it paints"
            )
        work = Work(2e9, (0.0,), (0.0,), decode_work(stages[0]))
    else:
        stages, work = count_work(enlarger, width, height, DEFAULT_STEPS)
    # most weights of a UNet work one level down, on a quarter of the latents; two bytes each, two passes
    # where there is guidance
    latents = stages[0].height * stages[0].width / 64
    first = (1 if is_distilled(folder, steps) else 2) * steps * unet_bytes * latents / 4
    return stages, replace(work, stages=(first, *work.stages[1:]))


def high_res_steps(folder: Path, steps: int) -> int:
    """Steps of each stage after the first."""
    return FEW_HIGH_RES_STEPS if is_quick(folder, steps) else HIGH_RES_STEPS


def decode_work(stage: Stage) -> float:
    """FLOP of decoding a stage's picture in tiles."""
    tiles = count_tiles(stage.height // 8, stage.width // 8)
    return TILE_FLOP * tiles * min(1.0, stage.height * stage.width / 512**2)


def forecast(folder: Path, width: int, height: int, steps: int | None = None) -> Forecast:
    """Forecast from configs alone; quick, loads nothing.

    Raises:
        ValueError: a size that can't be painted, or an unreadable folder.
    """
    stages, work = count_work(Path(folder), width, height, DEFAULT_STEPS if steps is None else steps)
    memory = BASE_BYTES + BYTES_PER_TOKEN * stages[-1].tokens + BYTES_PER_PIXEL * width * height
    sizes = tuple((stage.width, stage.height) for stage in stages)
    return Forecast(work.total / _speed + 0.5, memory, sizes, memory < available_bytes())


def learn_speed(work: Work, seconds: float) -> None:
    """Take the speed of a finished painting into account."""
    global _speed
    if seconds > 0.3:
        _speed = 0.5 * _speed + 0.5 * work.total / seconds
