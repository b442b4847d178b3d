"""The UNet's recipe on a tiny model: its loss is repeatable, falls, and reaches every weight."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

from pipelines.storybook import train_sd
from pipelines.storybook.scene import Scene, SceneObject
from pipelines.storybook.text import build_clip, build_clip_tokenizer, save_text_parts
from pipelines.storybook.train_clip import CLIPTask, retrieval
from pipelines.storybook.train_sd import SDTask, cell_weights, sample_sd, sd_recipe
from pipelines.training.loop import Run

SMALL = {"block_out_channels": (8, 8, 8), "attention_head_dim": 2, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    tokenizer = build_clip_tokenizer()
    text = CLIPTextModel(build_clip(tokenizer).config.text_config)
    save_text_parts(folder, text, tokenizer, "text_encoder", "tokenizer")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, latent_channels=16, norm_num_groups=4,
        mid_block_add_attention=False, scaling_factor=1.0, shift_factor=0.0,
    ).save_pretrained(folder / "vae")  # fmt: skip
    return folder


@pytest.fixture
def task(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sd, "UNET_CONFIG", train_sd.UNET_CONFIG | SMALL)
    return SDTask(parts, tmp_path / "cache", size=32)


def test_a_batch_gives_the_same_loss_whenever_it_is_asked_for(task):
    task.model.to(torch.bfloat16)
    (loss, figures), (again, _) = task.loss(4, 2), task.loss(4, 2)
    assert loss.isfinite() and loss.equal(again) and set(figures) == {"error", "probe"}


def test_the_loss_falls_and_every_weight_learns(task, tmp_path):
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    run = Run(task, replace(sd_recipe(), samples=4000, batch=4, warmup=1), tmp_path / "state")
    losses = []
    for _ in range(8):
        run.samples = 0  # the same batch again: noise levels differ too much between batches
        losses.append(run.train_step()["loss"])
    assert losses[-1] < 0.9 * losses[0]
    # a bias in front of a softmax over keys changes nothing, so that alone may stand still
    after = task.model.state_dict()
    still = [name for name, value in before.items() if value.float().equal(after[name].float())]
    assert still == []


def test_pictures_are_sampled_with_guidance(task):
    pictures = sample_sd(task.published, task.text, task.vae.float(), ["a cat", "a dog"], seed=1, steps=2)
    assert [picture.size for picture in pictures] == [(128, 128)] * 2


def test_object_cells_weigh_more_and_the_mean_stays_one():
    ball = SceneObject("ball", "red", "plain", "large", 0.5, 0.5, 0.25)
    (weights,) = cell_weights([Scene("room", (ball,))], 2.0)
    assert weights.shape == (16, 16) and weights.mean() == pytest.approx(1.0)
    assert float(weights[8, 8] / weights[0, 0]) == pytest.approx(2.0)


def test_clip_learns_to_see_beside_a_frozen_text_tower(parts, tmp_path):
    task = CLIPTask.from_parts(parts)
    stored = CLIPTextModel.from_pretrained(parts / "text_encoder").state_dict()
    loss, figures = task.loss(0, 4)
    loss.backward()
    grads = {name for name, p in task.published.named_parameters() if p.grad is not None}
    assert not any(name.startswith("text_model") for name in grads) and len(grads) > 20
    assert all(torch.equal(task.published.text_model.state_dict()[k], v) for k, v in stored.items())
    assert figures["top1"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert retrieval(task, 1).n == 128
