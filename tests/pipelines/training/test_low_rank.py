"""Adapters within a size: what is kept is the best there is, and it acts as before."""

import pytest
import torch

from pipelines.training.low_rank import low_rank_change, within_size


def adapter_of(*shapes, rank=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for index, (wide, tall) in enumerate(shapes):
        scale = 10.0**-index  # later layers matter less
        out[f"layer{index}.lora_A.weight"] = scale * torch.randn(rank, wide, generator=generator)
        out[f"layer{index}.lora_B.weight"] = torch.randn(tall, rank, generator=generator)
    return out


def products(adapter):
    names = [name for name in adapter if "lora_A" in name]
    return {n: adapter[n.replace("lora_A", "lora_B")].float() @ adapter[n].float() for n in names}


def size_of(adapter):
    return sum(2 * value.numel() for value in adapter.values())


def test_an_adapter_that_fits_stays_what_it_does():
    adapter = adapter_of((20, 30), (40, 10))
    small, kept = within_size(adapter, size_of(adapter))
    assert kept == pytest.approx(1.0) and size_of(small) == size_of(adapter)
    for name, product in products(adapter).items():
        torch.testing.assert_close(products(small)[name], product, rtol=5e-3, atol=5e-3)


def test_directions_go_to_the_layers_that_matter():
    adapter = adapter_of((20, 30), (20, 30), (20, 30))
    small, kept = within_size(adapter, size_of(adapter) * 2 // 3)
    ranks = [small[f"layer{index}.lora_A.weight"].shape[0] for index in range(3)]
    assert ranks[0] == 6 and ranks[2] == 1 and size_of(small) <= size_of(adapter) * 2 // 3
    whole = sum(float(product.square().sum()) for product in products(adapter).values())
    lost = sum(float((products(small)[n] - p).square().sum()) for n, p in products(adapter).items())
    assert kept == pytest.approx(1 - lost / whole, abs=1e-5) and kept > 0.999


def test_a_size_below_one_direction_of_each_layer_is_refused():
    with pytest.raises(ValueError, match="one direction of each layer takes 200 bytes, allowed are 100"):
        within_size(adapter_of((20, 30), (40, 10)), 100)


def test_kernels_keep_their_shape():
    down, up = torch.randn(4, 8, 3, 3), torch.randn(6, 4, 1, 1)
    small, _ = within_size({"c.lora_A.weight": down, "c.lora_B.weight": up}, 2 * 2 * (72 + 6))
    assert small["c.lora_A.weight"].shape == (2, 8, 3, 3) and small["c.lora_B.weight"].shape == (6, 2, 1, 1)


def test_a_change_of_full_rank_comes_back_whole():
    base = {"a.weight": torch.randn(5, 7), "a.bias": torch.randn(5)}
    trained = {name: value + torch.randn(value.shape) for name, value in base.items()}
    factors = low_rank_change(base, trained, 5)
    assert set(factors) == {"a.lora_A.weight", "a.lora_B.weight"}
    change = factors["a.lora_B.weight"].float() @ factors["a.lora_A.weight"].float()
    torch.testing.assert_close(change, trained["a.weight"] - base["a.weight"], rtol=1e-2, atol=1e-2)


def test_layers_of_other_ranks_act_at_strength_one(build_parts):
    """As diffusers loads them: a rank is no alpha."""
    transformer = build_parts()["transformer"]
    layers = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_k")
    generator = torch.Generator().manual_seed(0)
    adapter = {}
    for index, name in enumerate(layers):
        module = transformer.get_submodule(name)
        down, up = torch.randn(4, module.in_features), torch.randn(module.out_features, 4)
        adapter[f"transformer.{name}.lora_A.weight"] = down * 0.01**index
        adapter[f"transformer.{name}.lora_B.weight"] = up
    small, _ = within_size(adapter, size_of(adapter) * 3 // 4)
    assert len({value.shape[0] for name, value in small.items() if "lora_A" in name}) == 2
    transformer.load_lora_adapter(small)
    for name in layers:
        layer = transformer.get_submodule(name)
        x = torch.randn(3, layer.in_features, generator=generator)
        down, up = (small[f"transformer.{name}.lora_{part}.weight"].float() for part in "AB")
        torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ down.mT @ up.mT, rtol=1e-3, atol=1e-3)
