"""The loop: schedules, exact resumption, restarts, averages, and steps that must not count."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.training.loop import LoopConfig, Run, slice_of

CONFIG = LoopConfig(
    samples=80, batch=((0, 2), (20, 4)), lr=2e-2, muon_lr=1e-2, warmup=4, decay_from=0.5, ema_decay=0.9,
    evaluate_every_s=3600, save_every_s=3600, adamw_names=("0.",),
)  # fmt: skip


def sample(index):
    return torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(index))


class Task:
    """Learns to halve pictures; sample i is the same in every run. `before_loss` lets a test step in."""

    def __init__(self, before_loss=lambda first: None):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.before_loss, self.seen = before_loss, []

    def loss(self, first_sample, batch):
        answer = self.before_loss(first_sample)
        self.seen.append((first_sample, batch))
        x = torch.stack([sample(first_sample + i) for i in range(batch)]).to(torch.bfloat16)
        loss = (self.model(x) - x / 2).float().square().mean()
        return (loss if answer is None else answer(loss, self.model)), {"batch": float(batch)}

    def evaluate(self, model, folder):
        assert not model.training and not torch.is_grad_enabled()
        return {"size": float(sum(p.float().abs().sum() for p in model.parameters()))}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parts(run):
    """Everything that a run carries from step to step."""
    return [*run.weights.masters, *run.weights.ema, *run.task.model.state_dict().values()]


def test_batches_grow_and_rates_rise_and_fall_as_laid_out():
    assert [CONFIG.batch_at(samples) for samples in (0, 19, 20, 79)] == [2, 2, 4, 4]
    assert slice_of(CONFIG, batch=7).batch_at(50) == 7
    assert [CONFIG.rate_at(step, 0) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert CONFIG.rate_at(99, 40) == 1.0
    assert CONFIG.rate_at(99, 60) == pytest.approx(1 - 0.95 * 0.5)
    assert CONFIG.rate_at(99, 80) == pytest.approx(0.05)


def test_a_run_sees_each_sample_once_and_learns(tmp_path):
    task = Task()
    run = Run(task, CONFIG, tmp_path)
    before = task.loss(10_000, 16)[0].item()
    task.seen.clear()
    run.train()
    assert task.seen == [(i, 2) for i in range(0, 20, 2)] + [(i, 4) for i in range(20, 80, 4)]
    assert (run.step, run.samples) == (25, 80)
    assert task.loss(10_000, 16)[0].item() < 0.7 * before


@pytest.mark.parametrize("muon", [0.0, 1e-2])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(muon, tmp_path):
    config = slice_of(CONFIG, muon_lr=muon)
    whole = Run(Task(), config, tmp_path / "whole")
    whole.train()
    for stop_at in (8, 40, None):  # in the first batch size, in the second, not at all

        def end_the_process(first, stop_at=stop_at):
            if first == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        sliced = Run(Task(end_the_process), config, tmp_path / "sliced")
        sliced.train()
        assert sliced.samples == {8: 10, 40: 44, None: 80}[stop_at]
    assert sliced.step == whole.step == 25
    assert all(torch.equal(a, b) for a, b in zip(parts(sliced), parts(whole), strict=True))


def test_the_handler_of_others_is_put_back(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        Run(Task(), slice_of(CONFIG, samples=4), tmp_path).train()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_slice_without_time_trains_nothing_and_loses_nothing(tmp_path):
    Run(Task(), slice_of(CONFIG, samples=20), tmp_path).train()
    again = Run(Task(), CONFIG, tmp_path)
    before = [part.clone() for part in parts(again)]
    again.train(minutes=0.0)
    assert again.samples == 20 and all(torch.equal(a, b) for a, b in zip(parts(again), before, strict=True))


def test_published_weights_start_a_new_run_with_a_new_warm_up(tmp_path):
    first = Run(Task(), CONFIG, tmp_path / "first")
    first.train()
    published = torch.load(tmp_path / "first/ema.pt", weights_only=True)
    assert {value.dtype for value in published.values()} == {torch.float16}
    second = Run(Task(), CONFIG, tmp_path / "second", published)
    assert (second.step, second.samples) == (0, 0)
    for name, master in zip(second.weights.names, second.weights.masters, strict=True):
        assert torch.equal(master, published[name].float().view(master.shape))
    before = [master.clone() for master in second.weights.masters]
    second.train_step()
    rates = [group["lr"] for optimizer in second.optimizers for group in optimizer.param_groups]
    assert rates == [CONFIG.lr / 4, CONFIG.muon_lr / 4]
    assert all((a - b).abs().max() > 0 for a, b in zip(before, second.weights.masters, strict=True))


def test_a_checkpoint_counts_more_than_published_weights(tmp_path):
    run = Run(Task(), CONFIG, tmp_path)
    run.train()
    zeros = {name: torch.zeros_like(value) for name, value in run.task.model.state_dict().items()}
    again = Run(Task(), CONFIG, tmp_path, zeros)
    assert all(torch.equal(a, b) for a, b in zip(parts(again), parts(run), strict=True))


def nan_loss(loss, model):
    return loss * math.nan


def infinite_gradient(loss, model):
    return loss + (model[0].weight.sum() * 0).sqrt()  # finite, with a gradient of 0 times infinity


@pytest.mark.parametrize("spoil", [nan_loss, infinite_gradient])
def test_a_step_without_a_number_is_left_out_and_the_run_goes_on(spoil, tmp_path):
    run = Run(Task(lambda first: spoil if first == 4 else None), CONFIG, tmp_path)
    run.train_step()
    run.train_step()
    before = [part.clone() for part in parts(run)]
    figures = run.train_step()
    assert not (math.isfinite(figures["loss"]) and math.isfinite(figures["norm"]))
    assert (run.step, run.samples) == (3, 6)
    assert all(torch.equal(a, b) for a, b in zip(parts(run), before, strict=True))
    assert math.isfinite(run.train_step()["norm"])
    assert all(part.isfinite().all() for part in parts(run))


def test_averages_follow_the_masters_slowly(tmp_path):
    run = Run(Task(), CONFIG, tmp_path)
    expected = [master.detach().clone() for master in run.weights.masters]
    for step in range(30):
        run.train_step()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * m for e, m in zip(expected, run.weights.masters, strict=True)]
    for average, value in zip(run.weights.ema, expected, strict=True):
        torch.testing.assert_close(average, value, rtol=1e-5, atol=1e-6)


def test_evaluation_sees_the_average_and_leaves_the_training_weights(tmp_path):
    run = Run(Task(), CONFIG, tmp_path)
    for _ in range(5):
        run.train_step()
    before = [part.clone() for part in parts(run)]
    metrics = run.evaluate()
    assert all(torch.equal(a, b) for a, b in zip(parts(run), before, strict=True))
    assert run.task.model.training
    averaged = sum(float(average.abs().sum()) for average in run.weights.ema)
    assert metrics["size"] == pytest.approx(averaged, rel=1e-2)
    saved = torch.load(tmp_path / "ema.pt", weights_only=True)
    assert saved.keys() == run.task.model.state_dict().keys()
    assert all(value.is_contiguous() for value in saved.values())


def test_the_log_is_one_object_a_line_and_nothing_half_written_stays(tmp_path, capsys):
    Run(Task(), slice_of(CONFIG, samples=8), tmp_path).train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["evaluation"] is True and lines[-1]["samples"] == 8 and "size" in lines[-1]
    assert "samples=8" in capsys.readouterr().out
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["checkpoint.pt", "ema.pt", "log.jsonl"]


def test_figures_are_averaged_over_the_steps_that_have_them(tmp_path, monkeypatch):
    """Some recipes log a figure only with every sixth batch."""
    clock = iter(range(0, 100_000, 6))
    monkeypatch.setattr("pipelines.training.loop.time.monotonic", lambda: float(next(clock)))
    task = Task()
    plain = task.loss

    def loss(first_sample, batch):
        value, figures = plain(first_sample, batch)
        return value, figures | ({"rare": 5.0} if first_sample % 4 == 0 else {})

    task.loss = loss
    Run(task, slice_of(CONFIG, samples=20, batch=2), tmp_path).train()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    means = [record["rare"] for record in records if "rare" in record]
    assert means and set(means) == {5.0}
