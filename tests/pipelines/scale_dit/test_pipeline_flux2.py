"""The FLUX.2 line: stock folders, stock sampling in one stage, and guided stages."""

import json

import pytest
import torch
from diffusers import Flux2KleinPipeline

from pipelines.scale_dit.high_res import HighResOptions
from pipelines.scale_dit.pipeline_scale_dit_flux2 import ScaleDiTFlux2Pipeline

PROMPT = "a red ball in the meadow"
TEXT = 16


def paint(pipeline, prompt=PROMPT, *, size=(64, 64), seed=1, **options):
    defaults = {"num_inference_steps": 2, "high_res_steps": 1, "max_sequence_length": TEXT,
                "output_type": "latent", "generator": torch.Generator().manual_seed(seed)}  # fmt: skip
    return pipeline(prompt, height=size[0], width=size[1], **{**defaults, **options}).images


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_one_stage_is_what_the_stock_pipeline_paints(flux2_pipeline, flux2_folder, scale):
    stock = Flux2KleinPipeline.from_pretrained(flux2_folder)
    stock.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(2))
    options = {"height": 64, "width": 64, "num_inference_steps": 3, "latents": noise, "output_type": "pt",
               "guidance_scale": scale, "max_sequence_length": TEXT}  # fmt: skip
    ours = flux2_pipeline(PROMPT, **options).images
    theirs = stock(prompt=PROMPT, text_encoder_out_layers=(1, 2, 3), **options).images
    assert ours.shape == (1, 3, 64, 64) and ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(128, 192), (544, 544)])
def test_pictures_of_a_batch_equal_single_ones(flux2_pipeline, size):
    prompts = [PROMPT, "a blue cat on the beach"]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    both = paint(flux2_pipeline, prompts, size=size, generator=generators)
    assert both.shape == (2, 16, size[0] // 16, size[1] // 16)
    for row, (prompt, seed) in enumerate(zip(prompts, (3, 4), strict=True)):
        alone = paint(flux2_pipeline, prompt, size=size, seed=seed)
        torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=2e-4)
    assert not torch.equal(paint(flux2_pipeline, size=size, seed=5), paint(flux2_pipeline, size=size, seed=6))


def test_large_pictures_are_decoded_in_tiles(flux2_pipeline):
    tiles = []
    picture = paint(
        flux2_pipeline, size=(544, 128), output_type="pt", num_inference_steps=1,
        callback_on_tile=lambda *tile: tiles.append(tile),
    )  # fmt: skip
    assert picture.shape == (1, 3, 544, 128) and picture.isfinite().all() and tiles == [(1, 2), (2, 2)]


def test_later_stages_take_two_passes_with_one_guide(flux2_pipeline, monkeypatch):
    from pipelines.scale_dit import guided_stage

    encoded = []
    encode = guided_stage.encode_guide
    monkeypatch.setattr(guided_stage, "encode_guide", lambda *a, **k: encoded.append(1) or encode(*a, **k))
    options = {"size": (128, 128), "high_res": HighResOptions(guidance_scale=4.0)}
    pushed = paint(flux2_pipeline, **options)
    assert len(encoded) == 1  # the guide knows no text, so both passes share it
    assert (pushed - paint(flux2_pipeline, size=(128, 128))).abs().max() > 1e-3
    avoided = paint(flux2_pipeline, negative_prompt="a blue cat", **options)
    assert (avoided - pushed).abs().max() > 1e-3
    along = paint(flux2_pipeline, size=(128, 128), high_res=HighResOptions(guidance_scale=4.0, guide="along"))
    torch.testing.assert_close(along, pushed, rtol=1e-4, atol=1e-4)


def test_distilled_models_take_one_pass_by_default(build_flux2_parts, tmp_path):
    pipeline = ScaleDiTFlux2Pipeline(**build_flux2_parts(), is_distilled=True)
    pipeline.save_pretrained(tmp_path)
    again = ScaleDiTFlux2Pipeline.from_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "ScaleDiTFlux2Pipeline" and index["is_distilled"] is True
    pipelines = [pipeline, again]
    for each in pipelines:
        each.set_progress_bar_config(disable=True)
    first, second = (paint(each, size=(128, 128)) for each in pipelines)
    assert again.default_guidance == 1.0 and torch.equal(first, second)
    assert torch.equal(first, paint(pipeline, size=(128, 128), guidance_scale=1.0))


@torch.no_grad()
def test_given_states_replace_the_prompt(flux2_pipeline):
    states, pooled = flux2_pipeline.encode_prompt(PROMPT, TEXT)
    assert states.shape == (1, TEXT, 24) and pooled is None
    given = paint(flux2_pipeline, None, prompt_embeds=states)
    assert torch.equal(given, paint(flux2_pipeline))
    with pytest.raises(ValueError, match="pooled_prompt_embeds were given to a model that takes none"):
        paint(flux2_pipeline, None, prompt_embeds=states, pooled_prompt_embeds=states)
    with pytest.raises(ValueError, match="give either prompt, or prompt_embeds$"):
        paint(flux2_pipeline, PROMPT, prompt_embeds=states)
