"""One loop for all recipes: seeded, resumable in slices, with averaged weights and measured progress."""

import json
import math
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pipelines.training.masters import MasterWeights


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        samples: total number of samples of the run; the schedule is laid out over them.
        batch: samples per step, or (samples_from, batch) pairs for a growing batch.
        lr, muon_lr: peak rates of AdamW and Muon (0: AdamW for everything).
        warmup: steps of linear warm-up; the same re-warm-up follows a restart from published weights.
        decay_from: share of the run after which the rate falls linearly to 5 % of its peak.
        ema_decay, weight_decay, clip, seed: as usual.
        adamw_names: parameters that never go to Muon.
        evaluate_every_s, save_every_s: seconds between evaluations and between checkpoints.
    """

    samples: int
    batch: int | tuple[tuple[int, int], ...] = 16
    lr: float = 1e-3
    muon_lr: float = 0.0
    warmup: int = 100
    decay_from: float = 0.7
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    adamw_names: tuple[str, ...] = ()
    evaluate_every_s: float = 300.0
    save_every_s: float = 240.0

    def batch_at(self, samples: int) -> int:
        if isinstance(self.batch, int):
            return self.batch
        return [size for start, size in self.batch if samples >= start][-1]

    def rate_at(self, step: int, samples: int) -> float:
        """Factor on the peak rates."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        share = samples / self.samples
        if share <= self.decay_from:
            return warm
        return warm * max(0.05, 1 - 0.95 * (share - self.decay_from) / (1 - self.decay_from))


class Task(Protocol):
    """What a recipe provides; `published` beside `model` where only a part of it is ever published."""

    model: nn.Module

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss on `batch` samples of the seeded stream from `first_sample` on, and figures to log."""

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Metrics of the averaged model on held-out data; what paints writes a sample sheet into `folder`."""


def runtime_device() -> tuple[torch.device, torch.dtype]:
    """CUDA when there is one; bf16 in both cases."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.bfloat16


class Run:
    """A resumable run of one task in a state folder (outside the repository)."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        folder: Path,
        start_from: dict[str, torch.Tensor] | None = None,
    ) -> None:
        self.task, self.config, self.folder = task, config, folder
        folder.mkdir(parents=True, exist_ok=True)
        if start_from is not None:
            published = getattr(task, "published", task.model)  # what is trained along is not published
            published.load_state_dict({k: v.float() for k, v in start_from.items()})
        device, dtype = runtime_device()
        task.model.to(device)
        self.weights = MasterWeights(task.model, dtype, config.ema_decay, config.adamw_names)
        self.optimizers = self.weights.optimizers(config.lr, config.muon_lr, config.weight_decay)
        self.step, self.samples, self.seconds = 0, 0, 0.0
        self.best: dict[str, float] = {}
        self._stop = False
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.weights.load_state_dict(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.samples, self.seconds = state["step"], state["samples"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint under a temporary name, then move it into place."""
        part = self.checkpoint.with_suffix(".part")
        state = {
            "weights": self.weights.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
        }
        torch.save(state, part)
        os.replace(part, self.checkpoint)

    def log(self, record: dict[str, Any]) -> None:
        record = {
            "step": self.step,
            "samples": self.samples,
            "minutes": round(self.seconds / 60, 2),
            **record,
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            " ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in record.items()),
            flush=True,
        )

    def evaluate(self) -> dict[str, float]:
        """Metrics of the averaged weights; they are saved as `ema.pt` beside the checkpoint."""
        model = self.task.model
        training = {name: value.detach().clone() for name, value in model.state_dict().items()}
        averaged = self.weights.ema_state(model)
        model.load_state_dict({name: averaged[name].to(value.dtype) for name, value in training.items()})
        model.eval()
        with torch.no_grad():
            metrics = self.task.evaluate(model, self.folder)
        model.load_state_dict(training)
        model.train()
        part = self.folder / "ema.part"
        torch.save(averaged, part)
        os.replace(part, self.folder / "ema.pt")
        self.log({"evaluation": True, **metrics})
        return metrics

    def train_step(self) -> dict[str, float]:
        batch = self.config.batch_at(self.samples)
        loss, figures = self.task.loss(self.samples, batch)
        loss.backward()
        norm = self.weights.take_gradients(self.config.clip)
        value = float(loss.detach())
        if math.isfinite(value) and math.isfinite(norm):
            factor = self.config.rate_at(self.step, self.samples)
            for optimizer, peak in zip(self.optimizers, (self.config.lr, self.config.muon_lr), strict=False):
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor
                optimizer.step()
            self.weights.publish(self.step)
        self.step += 1
        self.samples += batch
        return {"loss": value, "norm": norm, **figures}

    def train(self, minutes: float | None = None) -> None:
        """Train until the run is over, the slice of `minutes` is used up, or SIGTERM asks for an end.

        Always ends with a checkpoint and an evaluation.
        """
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop", True))
        try:
            self._train(minutes)
            self.save()
            self.evaluate()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _train(self, minutes: float | None) -> None:
        self.task.model.train()
        began = last_log = last_save = last_evaluation = time.monotonic()
        figures: dict[str, list[float]] = {}  # some steps have figures that others lack
        mark = self.samples
        while self.samples < self.config.samples and not self._stop:
            before = time.monotonic()
            if minutes is not None and before - began >= minutes * 60:
                break
            for name, value in self.train_step().items():
                figures.setdefault(name, []).append(value)
            now = time.monotonic()
            self.seconds += now - before
            if now - last_log > 20:
                rate = (self.samples - mark) / (now - last_log)
                left = (self.config.samples - self.samples) / max(rate, 1e-9) / 60
                means = {name: sum(values) / len(values) for name, values in figures.items()}
                self.log({**means, "per_second": round(rate, 2), "minutes_left": round(left)})
                figures, mark, last_log = {}, self.samples, now
            if now - last_save > self.config.save_every_s:
                self.save()
                last_save = time.monotonic()
            if now - last_evaluation > self.config.evaluate_every_s:
                self.evaluate()
                last_evaluation = last_log = time.monotonic()
                mark = self.samples


def slice_of(config: LoopConfig, **changes: Any) -> LoopConfig:
    """A copy of a recipe's config with some values changed (for dry runs and A/B tests)."""
    return replace(config, **changes)
