"""TENOR's hooks: exact, removable, independent of the attention back end, aware of adapters and copies."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from peft import LoraConfig

from pipelines.compass.tenor import (
    find_tenor,
    install_tenor,
    is_installed,
    remove_tenor,
    tenor_variant,
)
from pipelines.compass.tenor_table import encode_positions, tenor_table, token_positions

pytestmark = pytest.mark.usefixtures("no_gradients")
WORDS = 12


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def run_unet(unet, text=None, length=WORDS):
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(2, 4, 16, 16, generator=generator)
    words = torch.randn(2, length, 24, generator=generator) if text is None else text
    return unet(sample, torch.tensor([10, 700]), words).sample


def run_flux(transformer, text=None):
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, 16, 16, generator=generator)
    words = torch.randn(2, WORDS, 16, generator=generator) if text is None else text
    ids = torch.zeros(16, 3)
    ids[:, 1], ids[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
    return transformer(
        hidden_states=image,
        encoder_hidden_states=words,
        pooled_projections=torch.randn(2, 24, generator=generator),
        timestep=torch.tensor([0.3, 0.8]),
        img_ids=ids,
        txt_ids=torch.zeros(WORDS, 3),
    ).sample


@pytest.fixture(params=["unet", "transformer"])
def model_and_run(request):
    model = request.getfixturevalue(request.param)
    return model, run_unet if request.param == "unet" else run_flux, 24 if request.param == "unet" else 16


def add_adapter(model, name, targets, rank=2):
    """A LoRA with random factors on both sides."""
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), adapter_name=name)
    generator = torch.Generator().manual_seed(len(name))
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_a_table_by_hand():
    table = tenor_table(3, 4)
    expected = torch.tensor(
        [[0.0, 1, 0, 1], [0.84147, 0.54030, 0.01, 0.99995], [0.90930, -0.41615, 0.02, 0.9998]]
    )
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-5)
    assert torch.equal(tenor_table(3, 3), table[:, :3])  # an odd width leaves out the last cosine
    assert tenor_table(77, 768).square().mean().sqrt() == pytest.approx(0.5**0.5, rel=1e-4)


def test_positions_can_begin_again_with_each_segment():
    assert token_positions(7, "per_segment", 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert token_positions(4).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="position_mode is 'circular'"):
        token_positions(4, "circular")


def test_words_in_another_order_matter_only_with_tenor(model_and_run):
    model, run, width = model_and_run
    text = torch.randn(2, WORDS, width)
    permuted = text.clone()
    permuted[:, 1:9] = text[:, 1:9].flip(1)
    assert (run(model, text) - run(model, permuted)).abs().max() < 1e-5
    install_tenor(model)
    assert (run(model, text) - run(model, permuted)).abs().max() > 1e-2


def test_installing_and_removing_leaves_no_trace(model_and_run):
    model, run, _ = model_and_run
    before, keys = run(model), list(model.state_dict())
    handle = install_tenor(model)
    with_tenor = run(model)
    assert is_installed(model) and handle.num_layers > 0 and not torch.equal(with_tenor, before)
    assert list(model.state_dict()) == keys
    assert torch.equal(run(model), with_tenor)
    install_tenor(model)  # a second time replaces the first
    assert torch.equal(run(model), with_tenor)
    find_tenor(model).remove()
    assert not is_installed(model) and torch.equal(run(model), before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_every_attention_processor_gives_the_same(unet):
    install_tenor(unet)
    expected = run_unet(unet)
    for processor in (AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(1)):
        unet.set_attn_processor(processor)
        assert is_installed(unet)
        torch.testing.assert_close(run_unet(unet), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["native", "_native_math", "flex"])
def test_every_flux_back_end_gives_the_same(transformer, backend):
    install_tenor(transformer)
    expected = run_flux(transformer)
    transformer.set_attention_backend(backend)
    try:
        torch.testing.assert_close(run_flux(transformer), expected, rtol=1e-5, atol=1e-5)
    finally:
        transformer.set_attention_backend("native")  # diffusers keeps the choice for every later model


def test_fused_projections_give_the_same(model_and_run):
    model, run, _ = model_and_run
    install_tenor(model)
    expected = run(model)
    model.fuse_qkv_projections()
    torch.testing.assert_close(run(model), expected, rtol=1e-5, atol=1e-5)
    model.unfuse_qkv_projections()
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize("before", [True, False], ids=["adapter first", "tenor first"])
def test_adapters_see_positions_too(model_and_run, before):
    model, run, _ = model_and_run
    targets = ["to_k"] if tenor_variant(model) == "unet" else ["add_q_proj", "add_k_proj", "add_v_proj"]
    plain = copy.deepcopy(model)
    if before:
        add_adapter(model, "style", targets)
        install_tenor(model)
    else:
        install_tenor(model)
        run(model)
        add_adapter(model, "style", targets)
    ours = run(model)
    assert is_installed(model)
    add_adapter(plain, "style", targets)
    plain.fuse_lora()  # the same as plain weights: what the adapter adds sees what the weights see
    plain.unload_lora()
    install_tenor(plain)
    torch.testing.assert_close(ours, run(plain), rtol=1e-5, atol=1e-5)
    model.unload_lora()
    remove_tenor(model)
    install_tenor(model)
    assert not torch.allclose(run(model), ours, atol=1e-4)


def test_a_copy_has_hooks_of_its_own(model_and_run):
    model, run, _ = model_and_run
    install_tenor(model)
    expected = run(model)
    twin = copy.deepcopy(model)
    assert is_installed(twin) and torch.equal(run(twin), expected)
    remove_tenor(twin)
    assert is_installed(model) and not is_installed(twin)
    assert torch.equal(run(model), expected) and not torch.equal(run(twin), expected)


def test_long_texts_continue_or_begin_again(unet):
    handle = install_tenor(unet)
    assert handle.positions.position_mode == "per_segment"  # published UNets saw positions 0 to 76
    again = run_unet(unet, length=154)
    handle = install_tenor(unet, "continuous")
    on = run_unet(unet, length=154)
    assert not torch.allclose(again, on, atol=1e-3)
    handle.set_positions(torch.arange(154) % 77)
    assert torch.equal(run_unet(unet, length=154), again)
    with pytest.raises(ValueError, match="12 tokens, but 154 positions"):
        run_unet(unet)
    handle.set_positions(None)
    assert torch.equal(run_unet(unet, length=154), on)


def test_tables_are_kept_by_type_and_not_by_shape_alone(unet):
    install_tenor(unet)
    expected = run_unet(unet)
    half = run_unet_in(unet, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    unet.float()
    again = copy.deepcopy(unet)
    torch.testing.assert_close(run_unet(again), expected, rtol=0.2, atol=0.2)  # weights went through bf16
    tables = find_tenor(unet).positions._tables
    assert {table.dtype for table in tables.values()} == {torch.float32, torch.bfloat16}


def run_unet_in(unet, dtype):
    unet.to(dtype)
    generator = torch.Generator().manual_seed(2)
    sample, words = (
        torch.randn(2, 4, 16, 16, generator=generator),
        torch.randn(2, WORDS, 24, generator=generator),
    )
    return unet(sample.to(dtype), torch.tensor([10, 700]), words.to(dtype)).sample


def test_a_table_made_while_sampling_serves_training(unet):
    install_tenor(unet)
    with torch.inference_mode():
        run_unet(unet)
    with torch.enable_grad():
        run_unet(unet).square().mean().backward()
    assert all(
        parameter.grad is not None for name, parameter in unet.named_parameters() if "attn2.to_k" in name
    )


def test_custom_positions_may_be_anything_numeric():
    table = encode_positions(torch.tensor([0.0, 0.5]), 2)
    torch.testing.assert_close(table, torch.tensor([[0.0, 1.0], [0.4794, 0.8776]]), rtol=0, atol=1e-4)


def test_models_without_text_are_refused():
    model = torch.nn.Linear(2, 2)
    assert tenor_variant(model) is None and not is_installed(model)
    with pytest.raises(ValueError, match="TENOR has no place in Linear"):
        install_tenor(model)
