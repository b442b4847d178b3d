"""Folders: ours and stock diffusers' are the same, and nothing is lost between them."""

import json

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from pipelines import ScaleDiTPipeline, load_pipeline

PROMPT = "a red ball in a meadow"
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")


def paint(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(6)
    return pipeline(
        PROMPT, height=128, width=128, num_inference_steps=2, generator=generator, output_type="pt"
    ).images


def tensors(folder):
    files = sorted(folder.rglob("*.safetensors"))
    return {(f.parent.name, name): value for f in files for name, value in load_file(f).items()}


def test_saving_and_loading_loses_no_bit(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    again = ScaleDiTPipeline.from_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/model_index.json").read_text())["_class_name"] == "ScaleDiTPipeline"
    for part in PARTS:
        before, after = (getattr(owner, part).state_dict() for owner in (pipeline, again))
        assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        assert getattr(again, part).dtype == torch.float32
    assert torch.equal(paint(again), paint(pipeline))
    assert isinstance(load_pipeline(tmp_path / "saved"), ScaleDiTPipeline)


def test_a_folder_of_ours_opens_in_stock_diffusers_and_paints(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    stock = FluxPipeline.from_pretrained(tmp_path / "saved")
    pictures = paint(stock)
    assert pictures.shape == (1, 3, 128, 128) and pictures.isfinite().all() and pictures.std() > 1e-3


def test_a_stock_folder_opens_here_without_a_word_about_its_class(saved_folder):
    assert json.loads((saved_folder / "model_index.json").read_text())["_class_name"] == "FluxPipeline"
    pipeline = load_pipeline(saved_folder)
    assert isinstance(pipeline, ScaleDiTPipeline) and pipeline.base_size == 64
    assert paint(pipeline).shape == (1, 3, 128, 128)


def test_one_stage_without_guidance_is_what_the_stock_pipeline_paints(saved_folder):
    """Same noise, same steps, same text width: the first stage is FLUX's own sampling."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    ours = load_pipeline(saved_folder)
    stock = FluxPipeline.from_pretrained(saved_folder)
    for pipeline in (ours, stock):
        pipeline.set_progress_bar_config(disable=True)
    options = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "pt"}
    text, pooled = ours.encode_prompt(PROMPT)
    states = {"prompt_embeds": text, "pooled_prompt_embeds": pooled}
    theirs = stock(latents=FluxPipeline._pack_latents(noise, 1, 4, 8, 8), **states, **options).images
    torch.testing.assert_close(
        ours(latents=noise, guidance_scale=1.0, **states, **options).images, theirs, rtol=1e-4, atol=1e-5
    )


def test_half_precision_is_stored_and_read_as_asked(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    small = load_pipeline(tmp_path / "saved", dtype=torch.bfloat16)
    assert all(getattr(small, part).dtype == torch.bfloat16 for part in PARTS)
    pictures = paint(small)
    assert pictures.isfinite().all()
    assert (pictures - paint(pipeline)).abs().mean() < 0.1


def test_only_safetensors_are_written(saved_folder):
    suffixes = {path.suffix for path in saved_folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt", ".model"} and ".safetensors" in suffixes
    assert len(tensors(saved_folder)) > 100


def test_a_missing_weight_file_is_an_error(own_folder):
    next((own_folder / "transformer").glob("*.safetensors")).unlink()
    with pytest.raises(OSError):
        load_pipeline(own_folder)


def test_a_lora_file_is_loaded_and_taken_out_again(saved_folder, tmp_path):
    """The layers it wraps are called though the transformer's own forward is not."""
    from peft import LoraConfig, get_peft_model_state_dict

    trained = load_pipeline(saved_folder)
    torch.manual_seed(9)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    trained.transformer.add_adapter(config)
    layers = get_peft_model_state_dict(trained.transformer)
    ScaleDiTPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    pipeline = load_pipeline(saved_folder)
    plain = paint(pipeline)
    pipeline.load_lora_weights(tmp_path)
    with_lora = paint(pipeline)
    assert (with_lora - plain).abs().max() > 1e-3
    torch.testing.assert_close(with_lora, paint(trained), rtol=1e-4, atol=1e-5)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(paint(pipeline), plain, rtol=0, atol=0)
