"""LongAlign's LoRA: which modules carry one, its nameless file format, merging without loss.

The published files are flat lists [up, down, up, down, ...] in the order in which the authors' code meets the
modules of a U-Net. That order is the order of diffusers' own module tree, so it can be told from any
`UNet2DConditionModel`, and the list becomes named tensors that diffusers and peft load.
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from peft import LoraConfig
from torch import Tensor, nn

RANK = 32
_CARRIERS = (ResnetBlock2D, Attention, GEGLU)


def lora_modules(unet: nn.Module) -> list[str]:
    """Paths of the layers with a LoRA, in the order of the published lists.

    Every Linear and Conv2d inside residual blocks, attentions and gated feed-forwards: 224 layers of Stable
    Diffusion 1.5. Not: projections around transformers, second feed-forward layers, samplers, embeddings.
    """
    paths: dict[str, None] = {}
    for name, module in unet.named_modules():
        if isinstance(module, _CARRIERS):
            inner = (f"{name}.{path}" for path, part in module.named_modules() if _is_layer(part))
            paths.update(dict.fromkeys(inner))
    return list(paths)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def lora_config(unet: nn.Module, rank: int = RANK, dropout: float = 0.1) -> LoraConfig:
    """peft's description: scale 1, dropout on the branch, down ~ N(0, 1 / rank), up = 0."""
    names = lora_modules(unet)
    return LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=dropout, init_lora_weights="gaussian", target_modules=names
    )


def named_from_list(flat: Sequence[Tensor], unet: nn.Module) -> dict[str, Tensor]:
    """Tensors `<module>.lora_A.weight` (down) and `<module>.lora_B.weight` (up) of a flat list.

    Raises:
        ValueError: the list has another length than the U-Net asks for, or a shape doesn't fit its module.
    """
    names = lora_modules(unet)
    if len(flat) != 2 * len(names):
        raise ValueError(
            f"the list has {len(flat)} tensors; this U-Net has {len(names)} layers, two for each"
        )
    layers = dict(unet.named_modules())
    named = {}
    for index, name in enumerate(names):
        up, down = flat[2 * index], flat[2 * index + 1]
        weight = layers[name].weight
        if (
            up.shape[0] != weight.shape[0]
            or down.shape[1:] != weight.shape[1:]
            or up.shape[1] != down.shape[0]
        ):
            shapes = f"{list(up.shape)} and {list(down.shape)}"
            raise ValueError(f"entry {index} has the shapes {shapes}, {name} has {list(weight.shape)}")
        named[f"{name}.lora_A.weight"], named[f"{name}.lora_B.weight"] = down, up
    return named


def list_from_named(named: Mapping[str, Tensor], unet: nn.Module) -> list[Tensor]:
    """The flat list of named tensors, as the authors' loader reads it."""
    parts = ((f"{name}.lora_B.weight", f"{name}.lora_A.weight") for name in lora_modules(unet))
    return [named[part] for pair in parts for part in pair]


@torch.no_grad()
def merge_lora(unet: nn.Module, *loras: tuple[Mapping[str, Tensor], float]) -> list[str]:
    """Add LoRAs, each times its strength, to the weights of a U-Net in place.

    All are summed in float32 and cast once: merging one by one into half precision would round each time.

    Args:
        loras: pairs (named tensors, strength).
    Returns:
        Paths of the changed layers.
    Raises:
        ValueError: a tensor names a layer that the U-Net doesn't have.
    """
    layers = dict(unet.named_modules())
    deltas: dict[str, Tensor] = {}
    for named, strength in loras:
        for key, down in named.items():
            name, found, _ = key.partition(".lora_A.")
            if not found:
                continue
            if name not in layers:
                raise ValueError(f"the U-Net has no layer {name}")
            up = named[f"{name}.lora_B.weight"]
            weight = layers[name].weight
            delta = up.to(weight.device).float().flatten(1) @ down.to(weight.device).float().flatten(1)
            deltas[name] = deltas.get(name, 0) + strength * delta.view(weight.shape)
    for name, delta in deltas.items():
        weight = layers[name].weight
        weight.copy_(weight.float() + delta)
    return list(deltas)
