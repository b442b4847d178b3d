"""Eight steps or fewer: the adapter for few steps paints the first stage, and that alone."""

import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.compose import few_steps
from pipelines.compose.forecast import count_work
from pipelines.compose.painting import Cancelled, load_model, paint


def write_adapter(folder):
    """Put a random adapter for few steps into a model folder."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, layer in load_model(folder).pipeline.transformer.named_modules():
        if re.fullmatch(r"single_transformer_blocks\.\d+\.attn\.to_[qkv]", name):
            tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(
                2, layer.in_features, generator=generator
            )
            tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(
                layer.out_features, 2, generator=generator
            )
    (folder / few_steps.ADAPTER).mkdir()
    save_file(tensors, folder / few_steps.ADAPTER / "pytorch_lora_weights.safetensors")


@pytest.fixture(scope="module")
def folder(saved_folder, tmp_path_factory):
    """A tiny model with such an adapter."""
    folder = shutil.copytree(saved_folder, tmp_path_factory.mktemp("weights") / saved_folder.name)
    write_adapter(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def plain(saved_folder):
    return load_model(saved_folder)


def run(model, **options):
    return paint(
        model, **{"prompt": "a red ball", "width": 64, "height": 64, "seed": 1, "steps": 4, **options}
    )


def test_few_steps_are_those_of_the_adapter_without_guidance(model, folder):
    from diffusers import FluxPipeline

    stock = FluxPipeline.from_pretrained(folder, dtype=model.pipeline.dtype)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(folder / few_steps.ADAPTER)
    asked = stock(
        "a red ball", height=64, width=64, num_inference_steps=4, max_sequence_length=8,
        generator=torch.Generator().manual_seed(1),
    ).images[0]  # fmt: skip
    ours = np.asarray(run(model).image).astype(int)
    assert np.abs(ours - np.asarray(asked)).mean() < 4


def test_many_steps_are_painted_as_without_an_adapter(model, plain):
    for options in ({"steps": 9}, {"steps": 9, "width": 128}):
        assert np.array_equal(
            np.asarray(run(model, **options).image), np.asarray(run(plain, **options).image)
        )
    assert not np.array_equal(np.asarray(run(model).image), np.asarray(run(plain).image))


def test_later_stages_take_fewer_steps_and_the_plain_weights(model):
    news = []
    painted = run(model, width=128, on_progress=news.append)
    assert painted.stages == ((96, 64), (128, 64))
    steps = [(item.stage, item.step, item.steps) for item in news if item.phase == "paint"]
    assert steps == [(stage, step, 4) for stage in (1, 2) for step in (1, 2, 3, 4)]
    assert [item.fraction for item in news] == sorted(item.fraction for item in news)


def test_they_cost_half_a_step_each(folder, saved_folder):
    (_, few), (_, full) = (count_work(path, 64, 64, 4) for path in (folder, saved_folder))
    assert 2 * few.stages[0] == full.stages[0]


@pytest.mark.parametrize("asked", [1, 2, 4])
def test_a_stop_is_heard(model, asked):
    questions = []

    def should_stop():
        questions.append(0)
        return len(questions) == asked

    with pytest.raises(Cancelled):
        run(model, should_stop=should_stop)
