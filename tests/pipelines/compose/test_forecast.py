"""Forecasts: quick, without torch, and following the work that there is."""

import json
import subprocess
import sys
import time

import pytest

from pipelines.compose import forecast as forecast_module
from pipelines.compose.forecast import count_work, forecast, learn_speed, model_facts


@pytest.fixture
def folder(tmp_path):
    """The two configs that a forecast reads."""
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "transformer").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps({"max_image_seq_len": 64}))
    config = {"num_layers": 2, "num_single_layers": 6, "num_attention_heads": 4, "attention_head_dim": 48}
    (tmp_path / "transformer/config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture(autouse=True)
def first_speed(monkeypatch):
    monkeypatch.setattr(forecast_module, "_speed", forecast_module.FIRST_SPEED)


def test_stages_are_those_that_will_be_painted(folder):
    cost = forecast(folder, 1920, 1088)
    assert cost.stages == ((176, 96), (688, 384), (1920, 1088))
    assert cost.seconds > 0 and cost.memory_bytes > 1_000_000_000 and cost.fits


def test_more_pixels_and_more_steps_cost_more(folder):
    seconds = [forecast(folder, side, side).seconds for side in (128, 256, 512, 1024, 2048, 4096)]
    assert seconds == sorted(seconds) and len(set(seconds)) == len(seconds)
    assert 8 < (seconds[-1] - 0.5) / (seconds[-3] - 0.5) < 25  # sixteen times the pixels, linear attention
    assert forecast(folder, 256, 256, 40).seconds > forecast(folder, 256, 256, 20).seconds
    assert forecast(folder, 256, 256) == forecast(folder, 256, 256, 20)


def test_memory_grows_with_pixels_and_decides_what_fits(folder, monkeypatch):
    needed = forecast(folder, 4096, 4096).memory_bytes
    assert needed > forecast(folder, 1024, 1024).memory_bytes
    monkeypatch.setattr(forecast_module, "available_bytes", lambda: needed)
    assert not forecast(folder, 4096, 4096).fits and forecast(folder, 4080, 4096).fits


def test_a_picture_far_too_large_is_forecast_as_not_fitting(folder):
    began = time.perf_counter()
    cost = forecast(folder, 10**9 - 10**9 % 16, 10**9 - 10**9 % 16)
    assert time.perf_counter() - began < 0.1
    assert not cost.fits and cost.memory_bytes > 10**18


@pytest.mark.parametrize(("width", "height"), [(0, 64), (100, 64), (64, 8), (-64, 64)])
def test_impossible_sizes_are_refused(folder, width, height):
    with pytest.raises(ValueError, match="must be a multiple of 16 and at least 64"):
        forecast(folder, width, height)


def test_facts_come_from_the_configs(folder, tmp_path):
    assert model_facts(folder) == (128, 192, 12 * 8 * 192 * 192)
    with pytest.raises(ValueError, match="is not a FLUX-type model folder"):
        model_facts(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    (broken / "scheduler").mkdir(parents=True)
    (broken / "scheduler/scheduler_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a FLUX-type model folder"):
        model_facts(broken)


def test_a_measured_speed_replaces_the_assumed_one_step_by_step(folder):
    _, work = count_work(folder, 1024, 1024, 20)
    slow = 10 * work.total / forecast_module.FIRST_SPEED
    before = forecast(folder, 1024, 1024).seconds
    for _ in range(8):
        learn_speed(work, slow)
    assert forecast(folder, 1024, 1024).seconds == pytest.approx(slow + 0.5, rel=0.05)
    assert before < slow / 5
    learn_speed(work, 0.0)  # too short to mean anything
    assert forecast(folder, 1024, 1024).seconds == pytest.approx(slow + 0.5, rel=0.05)


def test_a_forecast_takes_a_moment(folder):
    forecast(folder, 4096, 4096)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        forecast(folder, 4096, 4096)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.005


def test_forecasts_and_checks_load_neither_torch_nor_diffusers(folder):
    code = f"""
import sys
from pipelines.compose import painting
painting.forecast({str(folder)!r}, 4096, 4096, None)
painting.check_size(100, 100)
assert painting.understood("a red kitten")[0] == "a red cat"
print(sorted({{"torch", "diffusers", "transformers", "numpy", "PIL"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
