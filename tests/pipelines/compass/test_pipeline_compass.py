"""`CompassPipeline` by diffusers' conventions: folders, outputs, callbacks, generators, and TENOR's part."""

import inspect

import pytest
import torch
from safetensors.torch import save_file

import pipelines
from pipelines.compass.pipeline_compass import (
    CompassFluxPipeline,
    CompassPipeline,
    CompassStableDiffusionPipeline,
)
from pipelines.compass.sidecar import Sidecar, read_sidecar, write_sidecar
from pipelines.compass.support import tenor_support
from tests.pipelines.compass.test_weights import TRAINED, xflux

PROMPT = "a cat to the left of a dog"
KINDS = ("flux", "sd")


@pytest.fixture
def build(build_parts, build_sd):
    def of(kind):
        pipeline = CompassPipeline(**(build_parts() if kind == "flux" else build_sd(sample_size=8)))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return of


def paint(pipeline, prompt=PROMPT, seed=3, **options):
    options = {
        "num_inference_steps": 2,
        "output_type": "pt",
        "generator": torch.Generator().manual_seed(seed),
        **options,
    }
    return pipeline(prompt, **options).images


def assert_same(picture, other):
    """Equal up to rounding: a file's weights lie elsewhere in memory than built ones, and products of unlike
    alignment may differ in their last bit. Two openings of one file are compared exactly.
    """
    torch.testing.assert_close(picture, other, rtol=0, atol=1e-5)


def opened(folder, **options):
    pipeline = CompassPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_public_name_opens_both_kinds(build):
    assert pipelines.CompassPipeline is CompassPipeline
    assert type(build("flux")) is CompassFluxPipeline and type(build("sd")) is CompassStableDiffusionPipeline
    for kind in KINDS:
        names = set(inspect.signature(build(kind).__call__).parameters)
        assert {"prompt", "height", "width", "num_inference_steps", "guidance_scale", "generator", "latents",
                "output_type", "return_dict", "callback_on_step_end", "rewrite"} <= names  # fmt: skip
        assert isinstance(build(kind), CompassPipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_generators_and_batches(build, kind):
    pipeline = build(kind)
    picture = paint(pipeline)
    assert picture.shape == (1, 3, 64, 64) and 0 <= picture.min() <= picture.max() <= 1
    assert torch.equal(picture, paint(pipeline)) and not torch.equal(picture, paint(pipeline, seed=4))
    assert paint(pipeline, output_type="pil")[0].size == (64, 64)
    assert paint(pipeline, output_type="np").shape == (1, 64, 64, 3)
    generator = torch.Generator().manual_seed(3)
    as_tuple = pipeline(
        PROMPT, num_inference_steps=2, output_type="pt", generator=generator, return_dict=False
    )
    assert torch.equal(as_tuple[0], picture)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    batch = paint(pipeline, [PROMPT, PROMPT], generator=generators)
    torch.testing.assert_close(batch[:1], picture, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_see_the_pipeline_and_can_stop_it(build, kind):
    pipeline, seen = build(kind), []

    def on_step(pipe, step, timestep, tensors):
        seen.append((pipe is pipeline, step, sorted(tensors)))
        pipe._interrupt = True
        return tensors

    paint(pipeline, num_inference_steps=3, callback_on_step_end=on_step)
    assert seen == [(True, 0, ["latents"])]


@pytest.mark.parametrize("kind", KINDS)
def test_tenor_changes_the_picture_and_leaves_no_trace(build, kind):
    pipeline = build(kind)
    plain = paint(pipeline)
    with pytest.warns(UserWarning, match="may not know it"):
        pipeline.enable_tenor()
    assert pipeline.has_tenor and not torch.equal(paint(pipeline), plain)
    pipeline.disable_tenor()
    assert not pipeline.has_tenor and torch.equal(paint(pipeline), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_folders_go_there_and_back(build, kind, tmp_path):
    pipeline = build(kind)
    pipeline.save_pretrained(tmp_path)
    again = opened(tmp_path)
    assert type(again) is type(pipeline) and not again.has_tenor
    assert_same(paint(again), paint(pipeline))
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(paint(opened(tmp_path / "again")), paint(again))


def test_an_adapter_goes_into_its_folder_and_comes_back(build, tmp_path):
    pipeline = build("flux")
    (tmp_path / "source").mkdir()
    save_file(xflux(), tmp_path / "source/lora.safetensors")
    write_sidecar(tmp_path / "source", TRAINED)
    from pipelines.compass.weights_compass import load_compass

    load_compass(pipeline, tmp_path / "source")
    before = paint(pipeline)
    pipeline.save_pretrained(tmp_path / "saved")
    assert torch.equal(paint(pipeline), before)  # saving leaves it as it was
    assert read_sidecar(tmp_path / "saved/compass-lora") == TRAINED
    again = opened(tmp_path / "saved")
    assert again.has_tenor
    assert_same(paint(again), before)
    plain = opened(tmp_path / "saved", compass=None)
    assert not plain.has_tenor and not torch.equal(paint(plain), before)
    assert_same(paint(plain), paint(build("flux")))


def test_a_folder_with_a_sidecar_of_its_own_switches_tenor_on(build, tmp_path):
    build("sd").save_pretrained(tmp_path)
    write_sidecar(tmp_path, Sidecar(True, "unet", 77))
    pipeline = opened(tmp_path)
    assert pipeline.has_tenor and tenor_support(pipeline).status == "trained"
    paint(pipeline)
    pipeline.unet.set_default_attn_processor()  # resets of processors don't touch it
    assert pipeline.has_tenor
    from pipelines.compass.tenor import remove_tenor

    remove_tenor(pipeline.unet)
    with pytest.raises(ValueError, match="need TENOR"):
        paint(pipeline)
    pipeline.disable_tenor()
    paint(pipeline)
    pipeline.enable_tenor()
    pipeline.save_pretrained(tmp_path / "again")
    assert opened(tmp_path / "again").has_tenor


def test_other_pipelines_lend_their_parts(build_parts):
    from diffusers import FluxPipeline

    stock = FluxPipeline(**build_parts())
    pipeline = CompassPipeline.from_pipe(stock)
    assert type(pipeline) is CompassFluxPipeline and pipeline.transformer is stock.transformer


def test_defaults_of_models_without_guidance_embedding(build):
    pipeline = build("flux")
    assert pipeline.base_size == 64
    options = {
        "true_cfg_scale": 5.0,
        "negative_prompt": "",
        "height": 64,
        "width": 64,
        "max_sequence_length": 16,
    }
    assert pipeline.text_length(PROMPT, "") == 16
    assert torch.equal(paint(pipeline), paint(pipeline, **options))
    assert not torch.equal(paint(pipeline), paint(pipeline, true_cfg_scale=1.0))
    positional = pipeline(PROMPT, None, "a dog", num_inference_steps=2, output_type="pt",
                          generator=torch.Generator().manual_seed(3)).images  # fmt: skip
    assert torch.equal(positional, paint(pipeline, negative_prompt="a dog"))


def test_the_reference_sampler_uses_its_own_times_and_leaves_the_scheduler(build):
    pipeline, times = build("flux"), []

    def on_step(pipe, step, timestep, tensors):
        times.append(float(timestep) / 1000)
        return {}

    kept = pipeline.scheduler
    options = {"reference": True, "height": 70, "width": 64, "num_inference_steps": 3, "generator": None}
    first = paint(pipeline, callback_on_step_end=on_step, **options)
    assert first.shape[-2:] == (64, 64) and pipeline.scheduler is kept
    from pipelines.compass.schedule import flux_schedule

    assert times == pytest.approx(flux_schedule(3, 1)[:-1], abs=1e-6)
    assert torch.equal(first, paint(pipeline, **options))  # the authors' seed


def test_prompts_can_be_put_into_the_words_of_the_training(build):
    pipeline = build("flux")
    canonical = paint(pipeline, "a cat left of a dog")
    assert torch.equal(paint(pipeline, rewrite="plain"), canonical)
    assert torch.equal(paint(pipeline, [PROMPT], rewrite="plain"), canonical)
    with pytest.raises(ValueError, match="rewrite is 'verse'"):
        paint(pipeline, rewrite="verse")


def test_folders_of_other_things_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not a pipeline folder"):
        CompassPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "Thing"}')
    with pytest.raises(ValueError, match="neither a FLUX-type transformer nor a UNet"):
        CompassPipeline.from_pretrained(tmp_path)


def test_saving_with_foreign_adapters_is_refused(build, tmp_path):
    from peft import LoraConfig

    pipeline = build("flux")
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="style")
    with pytest.raises(ValueError, match=r"adapters \['style'\] are loaded"):
        pipeline.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stock_diffusers_reads_our_folders(build, tmp_path):
    from diffusers import FluxPipeline

    pipeline = build("flux")
    pipeline.save_pretrained(tmp_path)
    stock = FluxPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    options = {
        "height": 64,
        "width": 64,
        "true_cfg_scale": 5.0,
        "negative_prompt": "",
        "max_sequence_length": 16,
    }
    assert_same(paint(stock, **options), paint(pipeline))
    assert torch.equal(paint(stock, **options), paint(opened(tmp_path)))
