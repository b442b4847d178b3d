"""The trainable part of a model with an adapter, as a module of its own with the published file's keys."""

from typing import Any

from torch import nn

LORA_SINGLE_BLOCKS = (1, 2, 3, 4)
_TEXT_AND_IMAGE = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip


def compass_targets(transformer: Any) -> list[str]:
    """Layers of CoMPaSS's FLUX adapter: attention of all double blocks and of single blocks 1 to 4."""
    targets = [
        f"transformer_blocks.{block}.attn.{name}"
        for block in range(len(transformer.transformer_blocks))
        for name in _TEXT_AND_IMAGE
    ]
    for block in LORA_SINGLE_BLOCKS:
        if block < len(transformer.single_transformer_blocks):
            targets += [f"single_transformer_blocks.{block}.attn.{name}" for name in ("to_q", "to_k", "to_v")]
            targets.append(f"single_transformer_blocks.{block}.proj_out")
    return targets


def add_adapter(model: Any, rank: int, targets: list[str], name: str) -> None:
    """Put a fresh adapter of strength 1 on the targets; `down` is normal with deviation 1/rank, `up` zero."""
    from peft import LoraConfig

    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets)
    model.add_adapter(config, adapter_name=name)


class AdapterWeights(nn.Module):
    """The factors of one adapter and nothing else.

    Its state dict has the keys of a diffusers adapter file, so that training, averaging and publishing see
    the adapter as if it were the whole model. The parameters are those inside the model, not copies.

    Args:
        model: with the adapter. adapter: its name. prefix: "transformer" or "unet".
    Raises:
        ValueError: the model has no such adapter.
    """

    def __init__(self, model: nn.Module, adapter: str, prefix: str) -> None:
        super().__init__()
        from peft.tuners.lora import LoraLayer

        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
                place: nn.Module = self
                for part in (prefix, *name.split(".")):
                    if not hasattr(place, part):
                        place.add_module(part, nn.Module())
                    place = getattr(place, part)
                place.add_module("lora_A", layer.lora_A[adapter])
                place.add_module("lora_B", layer.lora_B[adapter])
        if not list(self.parameters()):
            raise ValueError(f"the model has no adapter {adapter!r}")
