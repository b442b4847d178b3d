"""A LoRA that acts on some tokens only: on the low-res guide, and where released weights need it further.

Scale-DiT teaches a frozen model to read its guide with a LoRA that the other tokens never pass through. PEFT
applies an adapter to every token of a layer's input; here each call says whose tokens it holds, and the
routed adapter is left out where its scope ends. All other adapters act everywhere, as usual.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

ADAPTER = "scale_dit"
SCOPE_KEY = "scale_dit_scope"  # in the metadata of a safetensors file of ours
Role = Literal["text", "image", "joint", "guide"]
LoraScope = Literal["low", "low+qkv_hi", "all", "none"]
LORA_SCOPES: tuple[str, ...] = tuple(scope for scope in get_args(LoraScope) if scope != "none")


@dataclass(frozen=True)
class LoraRouting:
    """Which tokens pass through the adapter.

    Attributes:
        adapter: PEFT's name of the routed adapter. A layer without it, or where it is not active, is called
            as it is.
        scope: "low": guide tokens alone (the paper's figure; the released FLUX.2 weights).
            "low+qkv_hi": also the query, key and value projections of image tokens, and in single blocks of
            text and image tokens (the released FLUX.1 weights were trained so).
            "all": every token of a stage with a guide. "none": no token.
    Raises:
        ValueError: an unknown scope.
    """

    adapter: str = ADAPTER
    scope: LoraScope = "low"

    def __post_init__(self) -> None:
        if self.scope not in get_args(LoraScope):
            raise ValueError(f"lora scope is {self.scope!r}; it must be one of {', '.join(LORA_SCOPES)}")

    def silenced(self) -> "LoraRouting":
        """The same adapter, acting nowhere: for stages without a guide."""
        return replace(self, scope="none")

    def reaches(self, role: Role, is_qkv: bool) -> bool:
        """Whether tokens of `role` pass through the adapter in a layer (`is_qkv`: query, key or value)."""
        if self.scope in ("all", "none"):
            return self.scope == "all"
        return role == "guide" or (self.scope == "low+qkv_hi" and is_qkv and role in ("image", "joint"))

    def call(self, layer: nn.Module, x: Tensor, role: Role, is_qkv: bool = False) -> Tensor:
        """`layer(x)`, without the routed adapter where `role` lies outside its scope.

        Raises:
            ValueError: the adapter was fused into the weights, where no token can be kept from it.
        """
        wrapped: Any = layer  # one of PEFT's layers, or the plain one
        # an active adapter is named at every wrapped layer, also where it has no weights
        if self.adapter not in getattr(layer, "active_adapters", ()) or self.adapter not in wrapped.scaling:
            return layer(x)
        if wrapped.merged:
            raise ValueError(f"LoRA adapter {self.adapter!r} acts on some tokens only and can't be fused")
        if self.reaches(role, is_qkv):
            return layer(x)
        if wrapped.disable_adapters or wrapped.active_adapters == [self.adapter]:
            return wrapped.base_layer(x)
        scale = wrapped.scaling[self.adapter]
        wrapped.scaling[self.adapter] = 0.0
        try:
            return layer(x)
        finally:
            wrapped.scaling[self.adapter] = scale


def stored_scope(source: Any, weight_name: str | None = None) -> LoraScope | None:
    """The scope that a LoRA file names in its metadata, or None: not a local file, or one of another origin.

    Args:
        source: what `load_lora_weights` takes: a folder, a file, a model id or a state dict.
        weight_name: file within the folder.
    """
    from safetensors import safe_open

    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if path.is_dir():
        path = path / (weight_name or "pytorch_lora_weights.safetensors")
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(SCOPE_KEY)
