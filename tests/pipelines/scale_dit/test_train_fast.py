"""Few-step distillation on a tiny model: what the teacher gives, what the student may change, publishing."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from pipelines.scale_dit import publish, train_fast, train_flux
from pipelines.scale_dit.evaluate_fast import diversity, fast_calls
from pipelines.scale_dit.schedule import euler_schedule
from pipelines.scale_dit.train_fast import CALLS, FastTask, fast_recipe
from pipelines.storybook.guidance import FLUX_GUIDANCE
from pipelines.training.loop import Run
from tests.pipelines.scale_dit.conftest import TINY


@pytest.fixture
def task(parts):
    return FastTask(parts)


def test_only_the_lora_learns_and_the_loss_falls(task, tmp_path):
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    run = Run(task, replace(fast_recipe(), batch=CALLS, warmup=1, lr=3e-3), tmp_path / "state")
    losses = [run.train_step()["loss"] for _ in range(16)]
    assert sum(losses[-5:]) < sum(losses[:5])
    run.weights.publish(run.step)
    after = task.model.state_dict()
    changed = {name for name in before if not before[name].bfloat16().equal(after[name])}
    assert changed and all("lora" in name for name in changed)


def test_the_teacher_is_the_model_without_the_student(task):
    """Guided Euler steps of the plain transformer, each row with its prompt, whatever the LoRA has become."""
    task.model.to(torch.float32)
    states, pooled = task.text.encode(["", "a red ball", "a blue car"], length=8)
    begin = torch.randn(4, 64, 64)  # two places each for two prompts
    start, stop = torch.tensor([1.0, 1.0, 0.5, 0.5]), torch.tensor([0.5, 0.5, 0.0, 0.0])
    first = task.teach(begin, start, stop, states, pooled)
    with torch.no_grad():
        for name, parameter in task.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    torch.testing.assert_close(task.teach(begin, start, stop, states, pooled), first, rtol=0, atol=0)
    task.model.disable_adapters()
    with torch.no_grad():
        for row, prompt in enumerate((1, 2, 1, 2)):
            x, now = begin[row : row + 1], start[row : row + 1]
            step = (stop[row] - start[row]) / train_fast.TEACHER_STEPS
            for index in range(train_fast.TEACHER_STEPS):
                plain, asked = (
                    task._velocity(x, now + index * step, states[i : i + 1], pooled[i : i + 1])
                    for i in (0, prompt)
                )
                x = x + step * (plain + FLUX_GUIDANCE * (asked - plain))
            torch.testing.assert_close(first[row : row + 1], x, rtol=1e-4, atol=1e-5)


def test_steps_are_those_of_the_models_scheduler(task, parts):
    """What the student learns to jump over is what a call with as many steps asks it for."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(parts / "scheduler")
    torch.testing.assert_close(task.levels, euler_schedule(scheduler, CALLS, 1.0).sigmas)
    with pytest.raises(ValueError, match="multiple of"):
        task.loss(0, CALLS + 1)


def test_a_run_becomes_a_lora_that_pipelines_load(task, tmp_path, saved_folder, monkeypatch):
    from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline

    monkeypatch.setattr(train_flux, "FLUX_CONFIG", TINY)
    run = Run(task, replace(fast_recipe(), batch=CALLS, warmup=1, lr=1e-2), tmp_path / "state")
    for _ in range(3):
        run.train_step()
    task.evaluate = lambda model, folder: {}
    run.evaluate()
    publish.main(["fast", "--state", str(tmp_path / "state"), "--folder", str(tmp_path / "model")])
    state, _ = ScaleDiTPipeline.lora_state_dict(tmp_path / "model/fast-lora", return_alphas=True)
    assert len(state) == 2 * sum("lora_A" in name for name in task.model.state_dict())


def test_diversity_is_a_mean_distance():
    black, white = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), (255, 255, 255))
    assert diversity([black, black]) == 0.0 and diversity([black, white]) == 1.0
    assert diversity([black, black, white]) == pytest.approx(2 / 3)
    assert fast_calls(4)["guidance_scale"] == 1.0
