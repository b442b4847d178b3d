"""A LoRA that acts on some tokens: scopes, other adapters beside it, and files in the released layout."""

import copy

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel
from safetensors.torch import save_file

from pipelines.scale_dit.lora_routing import ADAPTER, SCOPE_KEY, LoraRouting, stored_scope
from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline
from pipelines.scale_dit.pipeline_scale_dit_flux2 import ScaleDiTFlux2Pipeline
from pipelines.scale_dit.transformer_scale_dit import anchors, denoise, dense_attention, encode_guide
from tests.pipelines.conftest import TINY_FLUX
from tests.pipelines.scale_dit.conftest import TINY_FLUX2

GRID, LOW, TEXT = (4, 6), (2, 3), 5


@pytest.fixture(scope="module", params=["flux1", "flux2"])
def transformer(request, build_lora):
    """A tiny transformer with the routed adapter loaded as diffusers loads it. Read only."""
    torch.manual_seed(1)
    build, config = {
        "flux1": (FluxTransformer2DModel, TINY_FLUX),
        "flux2": (Flux2Transformer2DModel, TINY_FLUX2),
    }[request.param]
    model = build(**config).eval()
    model.load_lora_adapter(build_lora(model), adapter_name=ADAPTER)
    return model


@pytest.fixture
def own(transformer):
    """A copy that a test may give further adapters."""
    return copy.deepcopy(transformer)


@torch.no_grad()
def run(model, scope, *, guided=True, guide_scope=None):
    """Velocity under a scope; the guide may have been encoded under another one."""
    generator = torch.Generator().manual_seed(2)
    make = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    is_first = hasattr(model, "time_text_embed")
    axes, joint = (
        (3, TINY_FLUX["joint_attention_dim"]) if is_first else (4, TINY_FLUX2["joint_attention_dim"])
    )
    image, text, low = make(2, GRID[0] * GRID[1], 16), make(2, TEXT, joint), make(2, LOW[0] * LOW[1], 16)
    pooled = make(2, TINY_FLUX["pooled_projection_dim"]) if is_first else None
    guide = None
    if guided:
        guide = encode_guide(
            model, low, pooled, anchors(LOW, GRID, axes=axes), dense_attention(0),
            routing=LoraRouting(scope=guide_scope or scope),
        )  # fmt: skip
    return denoise(
        model, image, text, pooled, torch.tensor([0.4, 0.8]), image_ids=anchors(GRID, axes=axes),
        attend=dense_attention(TEXT), guide=guide, routing=LoraRouting(scope=scope),
    )  # fmt: skip


def plain(model, **options):
    """The same without any adapter."""
    model.disable_adapters()
    try:
        return run(model, "low", **options)
    finally:
        model.enable_adapters()


def test_released_files_are_read_with_a_scale_of_one(transformer):
    scales = {layer.scaling[ADAPTER] for layer in transformer.modules() if hasattr(layer, "lora_A")}
    assert scales == {1.0}


def test_low_scope_reaches_the_guide_alone(transformer):
    out = run(transformer, "low")
    assert torch.equal(run(transformer, "low", guide_scope="none"), plain(transformer))
    assert (out - plain(transformer)).abs().max() > 1e-3


def test_wider_scopes_reach_the_image_too(transformer):
    """FLUX.2 has its single blocks' projections fused: there only double blocks differ."""
    low, wider, all_tokens = (run(transformer, scope) for scope in ("low", "low+qkv_hi", "all"))
    assert (wider - low).abs().max() > 1e-3 and (all_tokens - wider).abs().max() > 1e-3


@pytest.mark.parametrize("scope", ["low", "low+qkv_hi", "all"])
def test_without_a_guide_the_adapter_is_silent(transformer, scope):
    assert torch.equal(run(transformer, scope, guided=False), plain(transformer, guided=False))


def test_an_inactive_adapter_acts_nowhere(own, build_lora):
    own.load_lora_adapter(build_lora(own, seed=8), adapter_name="style")
    own.set_adapter("style")
    style = run(own, "low", guided=False)
    assert (style - plain(own, guided=False)).abs().max() > 1e-3
    own.set_adapter(["style", ADAPTER])
    assert torch.equal(run(own, "low", guided=False), style)


def test_other_adapters_act_everywhere(own, build_lora):
    own.load_lora_adapter(build_lora(own, seed=8), adapter_name="style")
    own.set_adapter("style")
    style = run(own, "none")
    own.set_adapter(["style", ADAPTER])
    torch.testing.assert_close(run(own, "none"), style, rtol=1e-5, atol=1e-6)
    both = run(own, "low")
    assert (both - style).abs().max() > 1e-3
    scales = [layer.scaling[ADAPTER] for layer in own.modules() if hasattr(layer, "lora_A")]
    assert set(scales) == {1.0}  # put back after every call


def test_an_adapter_beside_it_may_lie_on_layers_that_it_leaves_out(own):
    """PEFT then names both as active on every wrapped layer."""
    from peft import LoraConfig

    before = run(own, "none")
    layer = "transformer_blocks.0.attn.add_q_proj"
    assert isinstance(own.get_submodule(layer), torch.nn.Linear)
    own.add_adapter(LoraConfig(r=2, target_modules=[layer]), adapter_name="other")
    own.set_adapters([ADAPTER, "other"], [1.0, 1.0])
    torch.testing.assert_close(run(own, "none"), before)  # a fresh adapter changes nothing


def test_a_fused_adapter_cannot_be_kept_from_tokens(own):
    own.fuse_lora(adapter_names=[ADAPTER])
    with pytest.raises(ValueError, match="'scale_dit' acts on some tokens only and can't be fused"):
        run(own, "low")


def test_unknown_scopes_are_refused():
    with pytest.raises(ValueError, match="lora scope is 'high'; it must be one of low, low\\+qkv_hi, all$"):
        LoraRouting(scope="high")


def latents(pipeline, size):
    generator = torch.Generator().manual_seed(5)
    return pipeline(
        "a red ball in a meadow", height=size, width=size, num_inference_steps=2, high_res_steps=1,
        max_sequence_length=16, generator=generator, output_type="latent",
    ).images  # fmt: skip


@pytest.mark.parametrize("line", ["flux1", "flux2"])
def test_a_pipeline_loads_a_released_file_and_lets_it_go(
    line, saved_folder, flux2_folder, build_lora, tmp_path
):
    build, folder = {
        "flux1": (ScaleDiTPipeline, saved_folder),
        "flux2": (ScaleDiTFlux2Pipeline, flux2_folder),
    }[line]
    pipeline = build.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    save_file(build_lora(pipeline.transformer), tmp_path / "pytorch_lora_weights.safetensors")
    small, large = latents(pipeline, 64), latents(pipeline, 128)
    pipeline.load_scale_dit_lora(tmp_path)
    assert pipeline.lora_routing == LoraRouting(scope={"flux1": "low+qkv_hi", "flux2": "low"}[line])
    assert pipeline.get_active_adapters() == [ADAPTER]
    assert torch.equal(latents(pipeline, 64), small)
    by_default = latents(pipeline, 128)
    assert (by_default - large).abs().max() > 1e-3
    pipeline.delete_adapters(ADAPTER)
    assert torch.equal(latents(pipeline, 128), large)
    pipeline.load_scale_dit_lora(tmp_path, scope="all")
    assert (latents(pipeline, 128) - by_default).abs().max() > 1e-4


def test_loading_it_leaves_other_adapters_active(saved_folder, build_lora):
    pipeline = ScaleDiTPipeline.from_pretrained(saved_folder)
    pipeline.load_lora_weights(build_lora(pipeline.transformer, seed=9), adapter_name="style")
    pipeline.load_scale_dit_lora(build_lora(pipeline.transformer))
    assert sorted(pipeline.get_active_adapters()) == [ADAPTER, "style"]


def test_a_file_may_name_its_scope(tmp_path):
    weights = {"transformer.x_embedder.lora_A.weight": torch.zeros(1, 1)}
    save_file(weights, tmp_path / "pytorch_lora_weights.safetensors", metadata={SCOPE_KEY: "all"})
    save_file(weights, tmp_path / "silent.safetensors")
    assert stored_scope(tmp_path) == stored_scope(tmp_path / "pytorch_lora_weights.safetensors") == "all"
    assert stored_scope(tmp_path, "silent.safetensors") is None
    assert stored_scope(weights) is None and stored_scope("somebody/model") is None
