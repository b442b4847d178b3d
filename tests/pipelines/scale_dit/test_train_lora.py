"""The adapter's recipe on a tiny model: its path, what it may change, the guide it enlarges, publishing."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from pipelines import ScaleDiTPipeline
from pipelines.scale_dit import publish
from pipelines.scale_dit.enlarging_data import CROP
from pipelines.scale_dit.lora_routing import ADAPTER
from pipelines.scale_dit.train_lora import HELD_OUT, STRENGTH, LoraTask, lora_recipe, released_name
from pipelines.training.command import load_weights
from pipelines.training.loop import Run


@pytest.fixture
def task(parts, tmp_path):
    return LoraTask(parts, tmp_path / "cache", drawings=6, rank=4)


def test_its_target_leads_from_the_enlarged_guide_to_the_drawing(task):
    sample = task._sample(task.views, 0, 2, noisy_guides=False)
    seen = {}

    def velocity(model, x, time, sample):
        seen.update(x=x, time=time)
        return (sample["start"] - sample["drawing"]) / STRENGTH

    task.velocity = velocity
    task._sample = lambda *_, **__: sample
    loss, _ = task.loss(0, 2)
    assert loss < 1e-10 and (seen["time"] <= STRENGTH).all()
    back = seen["x"] - seen["time"][:, None, None] * velocity(None, None, None, sample)
    torch.testing.assert_close(back, sample["drawing"], rtol=1e-4, atol=1e-5)


def test_only_the_adapter_learns_and_its_loss_falls(task, tmp_path):
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    run = Run(task, replace(lora_recipe(), batch=4, warmup=1, lr=1e-2), tmp_path / "state")
    fixed = task.loss(0, 4)[0].item()
    for _ in range(6):
        run.samples = 0  # the same batch again and again
        run.train_step()
    assert task.loss(0, 4)[0].item() < fixed
    changed = {name for name in before if not before[name].bfloat16().equal(task.model.state_dict()[name])}
    assert changed and all("lora_" in name for name in changed)


def test_a_run_becomes_an_adapter_for_pipelines_and_for_further_training(task, parts, tmp_path):
    run = Run(task, replace(lora_recipe(), batch=2, warmup=1, lr=1e-2), tmp_path / "state")
    for _ in range(2):
        run.train_step()
    metrics = run.evaluate()
    assert {"result_psnr", "plain_psnr", "result_octave_1"} <= set(metrics)
    assert Image.open(tmp_path / "state/sheet.png").size == (HELD_OUT * 16 * CROP, 3 * 16 * CROP)
    publish.main(["lora", "--state", str(tmp_path / "state"), "--folder", str(tmp_path / "model")])
    pipeline = ScaleDiTPipeline.from_pretrained(parts)
    pipeline.load_scale_dit_lora(tmp_path / "model/scale-dit-lora")
    assert pipeline.lora_routing.scope == "all"
    again = LoraTask(parts, tmp_path / "cache", drawings=6, rank=4)
    Run(again, lora_recipe(), tmp_path / "other", load_weights(tmp_path / "model/scale-dit-lora"))
    stored = load_weights(tmp_path / "model/scale-dit-lora")
    for name, value in again.model.named_parameters():
        if f".{ADAPTER}.weight" in name:
            assert value.equal(stored[released_name(name)].to(value.dtype))
    other = LoraTask(parts, tmp_path / "cache", drawings=6, rank=2)
    with pytest.raises(ValueError, match="another rank"):
        Run(other, lora_recipe(), tmp_path / "third", stored)
