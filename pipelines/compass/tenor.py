"""TENOR in any diffusers model: positions for text tokens, by hooks that can be taken out again bit for bit.

A UNet's cross-attention adds the table to the input of its key projection; a FLUX-type double block adds it
to the modulated text that enters the query and key projections. Values, single blocks and self-attention stay
as they are (arXiv 2412.13195, section 3). The hooks sit on the projections, so that every attention processor
and back end works, adapters see the same input as the weights under them, and no state-dict key changes.
"""

# Shape letters: B batch, L text tokens, C channels of the text.

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.compass.tenor_table import SEGMENT, check_positions, encode_positions, token_positions

VARIANTS = ("unet", "flux-double")
DEFAULT_POSITION_MODE = {"unet": "per_segment", "flux-double": "continuous"}
_KEPT_TABLES = 16


@dataclass(eq=False)
class TenorPositions:
    """Which position every text token has; one object per installation, shared by its hooks.

    Attributes:
        position_mode, segment: see `tenor_table.token_positions`.
        custom: `[L]` positions that replace the rule, for texts put together from parts; None: the rule.
    """

    position_mode: str
    segment: int = SEGMENT
    custom: Tensor | None = None
    _tables: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)

    def table(self, text: Tensor) -> Tensor:
        """The table `[L, C]` for a text `[B, L, C]`, in its dtype and on its device."""
        length, channels = text.shape[-2:]
        key = (length, channels, text.dtype, text.device, self.position_mode, self.segment)
        if self.custom is not None:
            if len(self.custom) != length:
                raise ValueError(f"the text has {length} tokens, but {len(self.custom)} positions were set")
            return encode_positions(self.custom, channels, text.dtype, text.device)
        if key not in self._tables:
            if len(self._tables) >= _KEPT_TABLES:
                self._tables.clear()
            # a table made under inference_mode could not take part in a later backward pass
            with torch.inference_mode(False):
                positions = token_positions(length, self.position_mode, self.segment)
                self._tables[key] = encode_positions(positions, channels, text.dtype, text.device)
        return self._tables[key]


class _Site:
    """The hooks of one attention layer.

    Its gate runs just before the projections in every known forward pass and looks whether they are still the
    modules that carry the hooks: loading an adapter puts a new module around a projection, fusing adds one.
    """

    def __init__(
        self, attention: nn.Module, gate: nn.Module, variant: str, positions: TenorPositions
    ) -> None:
        self.attention, self.positions = attention, positions
        # the projections that see positions, the one that replaces them when fused, which of its parts do
        self.encoded: tuple[str, ...] = ("to_k",) if variant == "unet" else ("add_q_proj", "add_k_proj")
        self.fused = "to_kv" if variant == "unet" else "to_added_qkv"
        self.parts = (*(True for _ in self.encoded), False)
        self.hooks: dict[str, _Hooks] = {}
        self.gate = gate.register_forward_pre_hook(self.refresh)
        self.refresh()

    def refresh(self, *_: Any) -> None:
        """Hang the hooks on the projections that the next forward pass will call."""
        for name in (*self.encoded, self.fused):
            module = getattr(self.attention, name, None)
            inner = getattr(module, "base_layer", None)
            hooks = self.hooks.get(name)
            if hooks is not None and (hooks.module is not module or hooks.inner is not inner):
                self.hooks.pop(name).remove()
                hooks = None
            if hooks is None and module is not None:
                self.hooks[name] = _Hooks(
                    module, inner, self.positions, self.parts if name == self.fused else None
                )

    def remove(self) -> None:
        self.gate.remove()
        for hooks in self.hooks.values():
            hooks.remove()
        self.hooks.clear()


class _Hooks:
    """The hooks of one projection.

    With an adapter around it both layers carry one: most callers run the adapter, some go straight to the
    weights under it, and the table has to be added exactly once either way.

    Args:
        inner: the layer under an adapter, or None.
        parts: for a fused projection, which of its equal parts see positions; None for a plain one.
    """

    def __init__(
        self,
        module: nn.Module,
        inner: nn.Module | None,
        positions: TenorPositions,
        parts: tuple[bool, ...] | None,
    ) -> None:
        self.module, self.inner, self.positions, self.parts = module, inner, positions, parts
        self.is_inside = False  # of the adapter, whose input has its positions already
        if parts is not None:
            self.handles = [module.register_forward_hook(self.after_fused)]
            return
        self.handles = [module.register_forward_pre_hook(self.before)]
        if inner is not None:
            self.handles.append(module.register_forward_hook(self.leave, always_call=True))
            self.handles.append(inner.register_forward_pre_hook(self.before_inner))

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.is_inside = self.inner is not None
        return (args[0] + self.positions.table(args[0]), *args[1:])

    def leave(self, *_: Any) -> None:
        self.is_inside = False

    def before_inner(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self.is_inside else (args[0] + self.positions.table(args[0]), *args[1:])

    def after_fused(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """A fused projection gives all parts at once: add the projected table to the encoded ones only."""
        assert self.parts is not None
        projected = F.linear(self.positions.table(args[0]), module.weight).chunk(len(self.parts), -1)
        pairs = zip(projected, self.parts, strict=True)
        return output + torch.cat([part if chosen else torch.zeros_like(part) for part, chosen in pairs], -1)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


class TenorHandle:
    """An installation of TENOR in one model.

    Attributes:
        variant: "unet" or "flux-double".
        positions: the rule of positions; change it at any time.
    """

    def __init__(self, variant: str, positions: TenorPositions, sites: list[_Site]) -> None:
        self.variant, self.positions, self._sites = variant, positions, sites

    @property
    def num_layers(self) -> int:
        """Attention layers that see positions; 0 after `remove`."""
        return len(self._sites)

    def set_positions(self, positions: Tensor | None) -> None:
        """Give every text token its position `[L]` by hand; None goes back to the rule.

        For texts that are put together from encoded parts of different lengths.
        """
        if positions is not None and (positions.ndim != 1 or not len(positions)):
            raise ValueError(f"positions have shape {list(positions.shape)}; they must be one row per token")
        self.positions.custom = positions

    def remove(self) -> None:
        """Take all hooks out; the model computes again exactly what it did before."""
        for site in self._sites:
            site.remove()
        self._sites = []


def _layers(model: nn.Module) -> list[tuple[nn.Module, nn.Module, str]]:
    """(attention, gate, variant) of every layer in which text takes part."""
    from diffusers.models.attention_processor import Attention

    found: list[tuple[nn.Module, nn.Module, str]] = []
    for module in model.modules():
        attention = getattr(module, "attn", None)
        if hasattr(module, "norm1_context") and getattr(attention, "add_k_proj", None) is not None:
            norm = module.norm1_context  # some forward passes call the layer norm inside it and not itself
            found.append((attention, getattr(norm, "norm", norm), "flux-double"))
        elif isinstance(module, Attention) and module.is_cross_attention and module.add_k_proj is None:
            found.append((module, module, "unet"))
    return found


def tenor_variant(model: nn.Module) -> str | None:
    """ "unet", "flux-double", or None for a model in which TENOR has no place."""
    variants = {variant for *_, variant in _layers(model)}
    return variants.pop() if len(variants) == 1 else None


def install_tenor(model: nn.Module, position_mode: str | None = None, segment: int = SEGMENT) -> TenorHandle:
    """Give the text tokens of a model their positions; an earlier installation is replaced.

    Args:
        model: a UNet, a FLUX-type transformer, or a part of one (also a single cross-attention layer).
        position_mode: "continuous", or "per_segment" to start again every `segment` tokens. Default:
            "per_segment" for UNets, whose published weights saw positions 0 to 76 only, else "continuous".
    Returns:
        The handle; `handle.remove()` or `remove_tenor(model)` undoes everything.
    Raises:
        ValueError: the model has no layer for TENOR, or a bad mode or segment.
    """
    layers = _layers(model)
    variant = tenor_variant(model)
    if variant is None:
        raise ValueError(
            f"TENOR has no place in {type(model).__name__}: it needs cross-attention layers (UNet) "
            "or double-stream blocks (FLUX)"
        )
    mode = position_mode or DEFAULT_POSITION_MODE[variant]
    check_positions(mode, segment)
    remove_tenor(model)
    positions = TenorPositions(mode, segment)
    return TenorHandle(variant, positions, [_Site(*layer, positions) for layer in layers])


def _sites(model: nn.Module) -> list[_Site]:
    """Sites whose gates hang in this model, found by their hooks so that copies of a model count too."""
    owners = (
        getattr(hook, "__self__", None)
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
    )
    return list({id(site): site for site in owners if isinstance(site, _Site)}.values())


def find_tenor(model: nn.Module) -> TenorHandle | None:
    """The handle of the installation in this model, or None."""
    sites = _sites(model)
    return TenorHandle(tenor_variant(model) or "unet", sites[0].positions, sites) if sites else None


def is_installed(model: nn.Module) -> bool:
    """Whether every layer of the model that should see positions does."""
    covered = {id(site.attention) for site in _sites(model)}
    layers = _layers(model)
    return bool(layers) and all(id(attention) in covered for attention, *_ in layers)


def remove_tenor(model: nn.Module) -> None:
    """Take TENOR out of a model; nothing happens where it isn't installed."""
    if (handle := find_tenor(model)) is not None:
        handle.remove()
