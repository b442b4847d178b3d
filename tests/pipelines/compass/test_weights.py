"""Sidecars, locks, published adapters, UNets: what goes together and what is refused."""

import json
import warnings

import pytest
import torch
from safetensors.torch import save_file

from pipelines.compass.convert_compass import convert_compass
from pipelines.compass.convert_compass import main as convert
from pipelines.compass.pipeline_compass import CompassPipeline
from pipelines.compass.sidecar import (
    SIDECAR,
    Sidecar,
    published_sidecar,
    read_sidecar,
    write_sidecar,
)
from pipelines.compass.support import (
    adapter_scales,
    check_tenor,
    denoiser_of,
    disable_tenor,
    enable_tenor,
    has_tenor,
    tenor_support,
)
from pipelines.compass.weights_compass import (
    find_weights,
    load_compass,
    official_strength,
    weights_kind,
)

TRAINED = Sidecar(True, "flux-double", 512)


def xflux(width=32, rank=2, double=(0,), single=(1,)):
    """An adapter in the published layout with random factors, for the tiny transformer."""
    generator = torch.Generator().manual_seed(9)

    def pair(prefix, inner, outer):
        return {
            f"{prefix}.down.weight": 0.3 * torch.randn(rank, inner, generator=generator),
            f"{prefix}.up.weight": 0.3 * torch.randn(outer, rank, generator=generator),
        }

    state = {}
    for block in double:
        for stream in (1, 2):
            state |= pair(f"double_blocks.{block}.processor.qkv_lora{stream}", width, 3 * width)
            state |= pair(f"double_blocks.{block}.processor.proj_lora{stream}", width, width)
    for block in single:
        state |= pair(f"single_blocks.{block}.processor.qkv_lora", width, 3 * width)
        state |= pair(f"single_blocks.{block}.processor.proj_lora", 5 * width, width)
    return state


@pytest.fixture
def flux(build_parts):
    pipeline = CompassPipeline(**build_parts())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def adapter(tmp_path):
    """A folder as the authors publish it, with a sidecar of ours."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(xflux(), folder / "lora.safetensors")
    write_sidecar(folder, TRAINED)
    return folder


@torch.no_grad()
def velocity(pipeline):
    generator = torch.Generator().manual_seed(3)
    image, text = torch.randn(1, 16, 16, generator=generator), torch.randn(1, 6, 16, generator=generator)
    return pipeline.transformer(
        hidden_states=image,
        encoder_hidden_states=text,
        pooled_projections=torch.randn(1, 24, generator=generator),
        timestep=torch.tensor([0.4]),
        img_ids=torch.zeros(16, 3),
        txt_ids=torch.zeros(6, 3),
    ).sample


def test_a_sidecar_survives_its_file_and_nonsense_does_not(tmp_path):
    assert read_sidecar(tmp_path) is None
    write_sidecar(tmp_path, TRAINED)
    assert read_sidecar(tmp_path) == TRAINED
    stored = json.loads((tmp_path / SIDECAR).read_text())
    assert {key: stored[key] for key in ("tenor", "variant", "max_len", "version")} == {
        "tenor": True, "variant": "flux-double", "max_len": 512, "version": 1,
    }  # fmt: skip
    for broken in ("{", "[]", '{"tenor": true}', '{"tenor": "yes", "variant": "unet", "max_len": 77}',
                   '{"tenor": true, "variant": "unet", "max_len": 77, "version": 2}'):  # fmt: skip
        (tmp_path / SIDECAR).write_text(broken)
        with pytest.raises(ValueError, match=SIDECAR):
            read_sidecar(tmp_path)


def test_the_authors_repositories_are_known():
    assert published_sidecar("blurgy/CoMPaSS-FLUX.1") == TRAINED
    cached = published_sidecar("/x/models--blurgy--CoMPaSS-SD1.5/snapshots/1")
    assert cached.variant == "unet" and cached.position_mode == "per_segment"
    assert published_sidecar("somebody/FLUX.1") is None


def test_layouts_are_told_by_their_keys():
    assert weights_kind(xflux()) == "xflux-lora"
    assert weights_kind(["transformer.x.lora_A.weight", "transformer.x.lora_B.weight"]) == "flux-lora"
    assert weights_kind(["unet.x.lora_A.weight"]) == "unet-lora"
    assert weights_kind(["conv_in.weight", "down_blocks.0.x"]) == "unet"
    with pytest.raises(ValueError, match="no CoMPaSS weights"):
        weights_kind(["encoder.weight"])
    assert official_strength(0.5) == 0.25


def test_unknown_weights_get_a_warning_and_trained_ones_none(flux, adapter):
    assert tenor_support(flux).status == "unknown"
    with pytest.warns(UserWarning, match="may not know it"):
        enable_tenor(flux)
    assert has_tenor(flux)
    disable_tenor(flux)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_compass(flux, adapter)
        enable_tenor(flux)
    support = tenor_support(flux)
    assert support.status == "trained" and support.scale == 1.0 and "compass" in support.reason


def test_a_published_adapter_is_loaded_with_linear_strength(flux, adapter):
    plain = velocity(flux)
    found = load_compass(flux, adapter)
    assert found.kind == "xflux-lora" and has_tenor(flux)
    full = velocity(flux)
    load_compass(flux, adapter, scale=0.25)  # replaces the first
    quarter = velocity(flux)
    flux.transformer.set_adapters(["compass"], [1.0])
    assert torch.equal(velocity(flux), full)
    assert not torch.allclose(full, quarter, atol=1e-4) and not torch.allclose(quarter, plain, atol=1e-4)
    disable_tenor(flux)
    flux.transformer.delete_adapters("compass")
    assert torch.equal(velocity(flux), plain)


def test_strength_zero_locks_tenor_and_weak_ones_warn(flux, adapter):
    load_compass(flux, adapter)
    flux.transformer.set_adapters(["compass"], [0.0])
    assert tenor_support(flux).status == "untrained"
    with pytest.raises(ValueError, match="strength 0"):
        check_tenor(flux)
    with pytest.raises(ValueError, match="TENOR can't be switched on: the CoMPaSS adapter .* strength 0"):
        enable_tenor(flux)
    flux.transformer.set_adapters(["compass"], [0.3])
    with pytest.warns(UserWarning, match="strength 0.30"):
        check_tenor(flux)
    with pytest.raises(ValueError, match="scale is 0"):
        load_compass(flux, adapter, scale=0)
    flux.transformer.set_adapters(["compass"], [1.0])
    disable_tenor(flux)
    with pytest.raises(ValueError, match="need TENOR, but it isn't installed"):
        check_tenor(flux)
    check_tenor(flux, wanted=False)  # the person's own choice


def test_other_adapters_keep_their_strength(flux, adapter):
    from peft import LoraConfig

    flux.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"]), adapter_name="style")
    flux.transformer.set_adapters(["style"], [0.6])
    load_compass(flux, adapter, scale=0.8)
    assert adapter_scales(flux.transformer) == pytest.approx({"style": 0.6, "compass": 0.8})


def test_weights_without_word_of_tenor_leave_it_off(flux, tmp_path):
    save_file(xflux(), tmp_path / "lora.safetensors")
    with pytest.warns(UserWarning, match="nothing tells whether"):
        load_compass(flux, tmp_path / "lora.safetensors")
    assert not has_tenor(flux)
    load_compass(flux, tmp_path / "lora.safetensors", tenor=True)
    assert has_tenor(flux)
    write_sidecar(tmp_path, TRAINED)
    with pytest.raises(ValueError, match="was trained with TENOR"):
        load_compass(flux, tmp_path / "lora.safetensors", tenor=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (xflux(width=48), "has 48 channels, the model's has 32"),
        (xflux(double=(0, 5)), "transformer_blocks.5.attn.*, which this model doesn't have"),
    ],
)
def test_adapters_of_another_model_are_refused(flux, tmp_path, state, message):
    save_file(state, tmp_path / "lora.safetensors")
    write_sidecar(tmp_path, TRAINED)
    with pytest.raises(ValueError, match=message):
        load_compass(flux, tmp_path)
    assert adapter_scales(flux.transformer) == {} and not has_tenor(flux)


def test_places_without_weights_are_refused(flux, tmp_path):
    for source, message in (
        (tmp_path / "nowhere", "there are no weights"),
        (tmp_path, "neither an adapter nor"),
    ):
        with pytest.raises(ValueError, match=message):
            load_compass(flux, source)
    (tmp_path / "broken.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(ValueError, match="can't be read as safetensors"):
        find_weights(tmp_path / "broken.safetensors")


def test_a_unet_is_replaced_and_its_sidecar_counts(build_sd, build_unet, tmp_path, flux):
    pipeline = CompassPipeline(**build_sd())
    trained = build_unet()
    with torch.no_grad():
        trained.conv_out.bias.add_(1.0)
    trained.save_pretrained(tmp_path / "unet")
    write_sidecar(tmp_path, Sidecar(True, "unet", 77, "per_segment"))
    assert load_compass(pipeline, tmp_path).kind == "unet"
    assert has_tenor(pipeline) and tenor_support(pipeline).status == "trained"
    assert torch.equal(pipeline.unet.conv_out.bias, trained.conv_out.bias)
    with pytest.raises(ValueError, match="is for unet, but FluxTransformer2DModel is not"):
        load_compass(flux, tmp_path)
    build_unet(cross_attention_dim=32).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="cross_attention_dim is 32, not 24"):
        load_compass(pipeline, tmp_path)


def test_weights_trained_without_tenor_are_locked(build_sd, build_unet, tmp_path):
    pipeline = CompassPipeline(**build_sd())
    build_unet().save_pretrained(tmp_path / "unet")
    write_sidecar(tmp_path, Sidecar(False, "unet", 77))
    load_compass(pipeline, tmp_path)
    assert not has_tenor(pipeline) and tenor_support(pipeline).status == "untrained"
    with pytest.raises(ValueError, match="trained without it"):
        enable_tenor(pipeline)
    with pytest.warns(UserWarning, match="trained without it"):
        enable_tenor(pipeline, on_mismatch="warn")
    assert has_tenor(pipeline)


def test_pipelines_without_a_place_for_it_are_refused():
    class Other:
        unet = torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match="no place for TENOR"):
        enable_tenor(Other())
    with pytest.raises(ValueError, match="neither a unet nor a transformer"):
        denoiser_of(object())
    with pytest.raises(ValueError, match="on_mismatch is 'ask'"):
        enable_tenor(Other(), on_mismatch="ask")


def test_conversion_keeps_every_factor(flux, adapter, tmp_path, capsys):
    convert([str(adapter), str(tmp_path / "converted")])
    assert "xflux-lora" in capsys.readouterr().out
    assert find_weights(tmp_path / "converted").kind == "flux-lora"
    assert read_sidecar(tmp_path / "converted") == TRAINED
    load_compass(flux, adapter)
    published = velocity(flux)
    load_compass(flux, tmp_path / "converted")
    assert torch.equal(velocity(flux), published)
    with pytest.raises(ValueError, match="isn't empty"):
        convert_compass(adapter, tmp_path / "converted")


def test_conversion_asks_when_nothing_tells(tmp_path, build_unet):
    build_unet().save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match="say --tenor or --no-tenor"):
        convert_compass(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert_compass(tmp_path / "source", tmp_path / "out", tenor=True)
    assert (tmp_path / "out/unet/config.json").is_file() and read_sidecar(tmp_path / "out").variant == "unet"
