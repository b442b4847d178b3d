"""The transformer's recipe: its loss, its two kinds of batches, its weights on objects, its publishing."""

import json

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image

from pipelines.scale_dit import publish, train_flux
from pipelines.scale_dit.train_flux import FluxTask, TextParts, sample_pictures, token_weights, view_ids
from pipelines.scale_dit.transformer_scale_dit import anchors
from pipelines.storybook.guidance import FLUX_SHIFT
from pipelines.storybook.latents import GRID, View
from pipelines.storybook.scene import Scene, SceneObject
from tests.pipelines.scale_dit.conftest import TINY


@pytest.fixture
def task(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(train_flux, "FLUX_CONFIG", TINY)
    return FluxTask(parts, tmp_path / "cache", size=64)


def first_of(task, guided, batch=2):
    """First sample of a batch of that kind."""
    return next(i for i in range(0, 1000, batch) if ("guided" in task.loss(i, batch)[1]) == guided)


@pytest.mark.parametrize("guided", [False, True])
def test_a_batch_gives_the_same_loss_whenever_it_is_asked_for(task, guided):
    task.model.to(torch.bfloat16)
    first = first_of(task, guided)
    (loss, figures), (again, _) = task.loss(first, 2), task.loss(first, 2)
    assert loss.isfinite() and loss.equal(again) and loss.dtype == torch.float32
    assert list(figures) == ["guided" if guided else "whole", "probe"]
    assert figures[next(iter(figures))] == pytest.approx(
        2.0, abs=1.5
    )  # noise and picture, nothing learned yet


def test_training_starts_at_the_mean_and_reaches_every_parameter(task):
    task.model.to(torch.bfloat16)
    assert task.published.proj_out.weight.eq(0).all()
    with torch.no_grad():  # closed gates would keep gradients from the blocks in the first step
        for parameter in task.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for guided in (False, True):
        task.loss(first_of(task, guided), 2)[0].backward()
    missing = [n for n, p in task.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_one_batch_in_several_is_guided(task):
    task.model.to(torch.bfloat16)
    kinds = ["guided" in task.loss(first, 1)[1] for first in range(2 * train_flux.GUIDED_EVERY)]
    assert kinds.count(True) == 2


def test_object_tokens_weigh_more_and_the_mean_stays_one():
    item = SceneObject("ball", "red", "plain", "large", 0.5, 0.5, 0.25)
    scene = Scene("room", (item,))
    whole, crop, empty = token_weights(
        [(scene, None), (scene, View(32, 8, (0, 0), (0, 0))), (Scene("room", ()), None)], 3.0
    )
    assert whole.mean() == pytest.approx(1.0) and empty.eq(1).all()
    grid = whole.view(GRID, GRID)
    assert float(grid[4, 4] / grid[0, 0]) == pytest.approx(3.0) and grid[4, 4] > 1 > grid[0, 0]
    assert crop.eq(1).all()  # the corner of the large drawing shows no part of it
    middle = token_weights([(scene, View(32, 8, (12, 12), (0, 0)))], 3.0)
    assert middle.eq(1).all()  # nothing but the object


def test_positions_of_a_view_are_those_of_the_full_grids():
    view = View(side=32, low_side=11, at=(5, 20), low_at=(1, 3))
    high, low = view_ids(view)
    full, small = anchors((32, 32)).view(32, 32, 3), anchors((11, 11), (32, 32)).view(11, 11, 3)
    assert torch.equal(high.view(8, 8, 3), full[5:13, 20:28])
    assert torch.equal(low.view(8, 8, 3), small[1:9, 3:11])


def test_texts_are_encoded_as_the_pipeline_does(parts, pipeline):
    text = "a large red ball in a meadow"
    with torch.no_grad():
        states, pooled = pipeline.encode_prompt(text)
    ours, vector = TextParts(parts).encode([text], length=states.shape[1])
    torch.testing.assert_close(ours, states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vector, pooled, rtol=1e-4, atol=1e-5)
    padded, _ = TextParts(parts).encode([text, "a cat"], pad=3)
    assert padded.shape == (2, 8 + 3, 16)  # seven words, the end, and three of padding


def test_a_sheet_of_pictures_is_painted_and_saved(task, tmp_path):
    pictures = sample_pictures(
        task.published, task.text, task.vae.float(), ["a cat", "a dog"], seed=1, steps=2
    )
    assert [picture.size for picture in pictures] == [(128, 128)] * 2
    assert not np.array_equal(*map(np.asarray, pictures))
    again = sample_pictures(task.published, task.text, task.vae, ["a cat", "a dog"], seed=1, steps=2)
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(again[0]))
    task.evaluate(task.model, tmp_path)
    assert Image.open(tmp_path / "sheet.png").size == (1536, 512)


def test_a_run_becomes_a_pipeline_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(train_flux, "FLUX_CONFIG", TINY)
    trained = FluxTransformer2DModel(**TINY)
    (tmp_path / "state").mkdir()
    torch.save(
        {f"transformer.{k}": v.half() for k, v in trained.state_dict().items()}, tmp_path / "state/ema.pt"
    )
    stale = tmp_path / "model/transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"from before")
    publish.main(["flux", "--state", str(tmp_path / "state"), "--folder", str(tmp_path / "model")])
    assert not stale.exists()
    stored = FluxTransformer2DModel.from_pretrained(tmp_path / "model/transformer", torch_dtype=torch.float16)
    expected = trained.half().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in stored.state_dict().items())
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    assert index["_class_name"] == "FluxPipeline" and len(index) == 9
    scheduler = json.loads((tmp_path / "model/scheduler/scheduler_config.json").read_text())
    assert scheduler["max_image_seq_len"] == 64 and scheduler["shift"] == FLUX_SHIFT
