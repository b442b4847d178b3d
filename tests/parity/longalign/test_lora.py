"""LoRA order, the flat list and merged weights against the authors' injection code."""

import torch
from diffusers import UNet2DConditionModel

from pipelines.longalign.lora import list_from_named, lora_modules, merge_lora, named_from_list
from tests.parity.longalign.vectors import every

SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


def tiny_unet(case):
    """The recorded U-Net; the small copy has some of its layers only."""
    unet = UNet2DConditionModel(**case.record["unet_config"]).eval()
    unexpected = unet.load_state_dict(case.below("base."), strict=False).unexpected_keys
    assert not unexpected
    return unet


def is_whole(case, unet):
    return case.below("base.").keys() == unet.state_dict().keys()


def check_picture(case, unet):
    tensors = case.tensors
    with torch.no_grad():
        painted = unet(tensors["in.x"], tensors["in.t"], tensors["in.context"]).sample
    torch.testing.assert_close(painted, tensors["out.merged_unet"], rtol=1e-4, atol=1e-5)


@every("g_lora_order")
def test_order_of_stable_diffusion(case):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**case.record.get("unet_config", SD15))
    names = lora_modules(unet)
    assert names == [path for path, _, _ in case.record["order"]]
    assert len(names) == case.record["rows"]
    layers, rank, total = dict(unet.named_modules()), case.record["rank"], 0
    flat = [torch.empty(shape, device="meta") for _, up, down in case.record["order"] for shape in (up, down)]
    named_from_list(flat, unet)  # every shape fits its layer
    for path, up, down in case.record["order"]:
        weight = layers[path].weight
        assert up == [weight.shape[0], rank, *(1,) * (weight.ndim - 2)] and down == [rank, *weight.shape[1:]]
        total += torch.Size(up).numel() + torch.Size(down).numel()
    assert total == case.record["parameters"]


@every("g_lora_", without=("g_lora_order",))
def test_list_and_merge(case):
    unet, tensors, order = tiny_unet(case), case.tensors, case.record["order"]
    whole = is_whole(case, unet)
    order = [row if isinstance(row, str) else row[0] for row in order]
    assert lora_modules(unet) == order
    flat = [tensors[f"lora.{index:04d}"] for index in range(2 * len(order))]
    named = named_from_list(flat, unet)
    assert named[f"{order[0]}.lora_A.weight"].shape[0] == case.record["rank"]
    assert all(torch.equal(*pair) for pair in zip(list_from_named(named, unet), flat, strict=True))
    changed = merge_lora(unet, (named, 1.0))
    merged = case.below("merged.")
    assert merged and merged.keys() <= {f"{path}.weight" for path in changed} and changed == order
    state = unet.state_dict()
    for name, recorded in merged.items():
        torch.testing.assert_close(state[name], recorded, rtol=1e-5, atol=1e-6)
    if whole:
        assert len(merged) == len(order)
        check_picture(case, unet)


@every("g_lora_", without=("g_lora_order",))
def test_diffusers_loads_the_named_tensors(case):
    unet, merged, tensors = tiny_unet(case), tiny_unet(case), case.tensors
    merged.load_state_dict(unet.state_dict())
    whole = is_whole(case, unet)
    flat = [tensors[f"lora.{index:04d}"].float() for index in range(2 * len(case.record["order"]))]
    named = named_from_list(flat, unet)
    unet.load_lora_adapter(named, adapter_name="align", prefix=None)
    merge_lora(merged, (named, 1.0))
    if whole:
        check_picture(case, unet)
    config, size = merged.config, merged.config.sample_size
    x, context = torch.randn(1, config.in_channels, size, size), torch.randn(1, 6, config.cross_attention_dim)
    with torch.no_grad():
        ours, theirs = (network(x, 500, context).sample for network in (merged, unet))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
