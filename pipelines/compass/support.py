"""Switching TENOR on and off in a pipeline, and refusing where the weights don't know it."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipelines.compass.sidecar import Sidecar, published_sidecar, read_sidecar
from pipelines.compass.tenor import (
    TenorHandle,
    find_tenor,
    install_tenor,
    is_installed,
    remove_tenor,
    tenor_variant,
)

WEAK_SCALE = 0.5
BASE = ""  # the model's own weights among its adapters
_NOTED = "_compass_weights"  # on the denoiser: adapter name, or BASE -> Sidecar


@dataclass(frozen=True)
class TenorSupport:
    """Whether TENOR fits the weights of a pipeline.

    Attributes:
        status: "trained" (switch it on), "untrained" (it must stay off), "unknown" (nothing tells), or
            "impossible" (the model has no place for it).
        reason: a sentence for people.
        sidecar: what the weights were trained with, where it is known.
        scale: strength of the CoMPaSS adapter; 1 for weights without adapter.
    """

    status: str
    reason: str
    sidecar: Sidecar | None = None
    scale: float = 1.0


def denoiser_of(pipeline: Any) -> nn.Module:
    """The UNet or transformer of a diffusers pipeline.

    Raises:
        ValueError: it has neither.
    """
    for name in ("unet", "transformer"):
        if isinstance(model := getattr(pipeline, name, None), nn.Module):
            return model
    raise ValueError(f"{type(pipeline).__name__} has neither a unet nor a transformer")


def adapter_scales(model: nn.Module) -> dict[str, float]:
    """Strength of every adapter in a model; 0 for those that are switched off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    scales: dict[str, float] = {}
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        for name, scaling in getattr(layer, "scaling", {}).items():
            full = layer.lora_alpha[name] / layer.r[name]
            works = name in layer.active_adapters and not layer.disable_adapters
            value = scaling / full if works and full else 0.0
            scales[name] = max(scales.get(name, 0.0), value)
    return scales


def note_weights(model: nn.Module, name: str, sidecar: Sidecar) -> None:
    """Remember what an adapter, or the model itself (`BASE`), was trained with."""
    setattr(model, _NOTED, {**getattr(model, _NOTED, {}), name: sidecar})


def weights_sidecar(pipeline: Any) -> Sidecar | None:
    """What the denoiser's own weights were trained with: as noted, or by the folder or repository of them."""
    if (noted := getattr(denoiser_of(pipeline), _NOTED, {}).get(BASE)) is not None:
        return noted
    owners = (denoiser_of(pipeline), pipeline)
    places = (getattr(getattr(owner, "config", None), "_name_or_path", None) for owner in owners)
    for place in map(str, filter(None, places)):
        if (known := published_sidecar(place)) is not None:
            return known
        folder = Path(place)
        # a component's folder stands inside that of its pipeline
        for candidate in (folder, folder.parent) if folder.name in ("unet", "transformer") else (folder,):
            if (known := read_sidecar(candidate)) is not None:
                return known
    return None


def tenor_support(pipeline: Any) -> TenorSupport:
    """Whether TENOR may be switched on; for locks and hints."""
    model = denoiser_of(pipeline)
    variant = tenor_variant(model)
    if variant is None:
        return TenorSupport("impossible", f"{type(model).__name__} has no place for TENOR")
    noted = getattr(model, _NOTED, {})
    scales = adapter_scales(model) if noted else {}
    adapters = {name: sidecar for name, sidecar in noted.items() if name in scales and sidecar.tenor}
    if adapters:
        name = max(adapters, key=lambda key: scales[key])
        if scales[name] == 0:
            reason = f"the CoMPaSS adapter {name!r} has strength 0: the weights that work don't know TENOR"
            return TenorSupport("untrained", reason, adapters[name], 0.0)
        reason = f"the adapter {name!r} was trained with it"
        return TenorSupport("trained", reason, adapters[name], scales[name])
    sidecar = weights_sidecar(pipeline)
    if sidecar is None:
        return TenorSupport("unknown", "nothing tells whether these weights were trained with TENOR")
    if sidecar.variant != variant:
        return TenorSupport(
            "untrained", f"the weights are for {sidecar.variant}, this model is {variant}", sidecar
        )
    if not sidecar.tenor:
        return TenorSupport("untrained", "these weights were trained without it", sidecar)
    return TenorSupport("trained", "these weights were trained with it", sidecar)


def enable_tenor(pipeline: Any, position_mode: str | None = None, on_mismatch: str = "refuse") -> TenorHandle:
    """Switch TENOR on in any diffusers pipeline with a UNet or a FLUX-type transformer.

    Args:
        position_mode: "continuous" or "per_segment". Default: that of the training where it is known, else
            "per_segment" for UNets and "continuous" for FLUX.
        on_mismatch: what to do with weights that were certainly not trained with it: "refuse" or "warn".
            Weights of which nothing is known always give a warning.
    Returns:
        The handle; `disable_tenor(pipeline)` or `handle.remove()` undoes it bit for bit.
    Raises:
        ValueError: the model has no place for TENOR, or the weights don't know it.
    """
    if on_mismatch not in ("refuse", "warn"):
        raise ValueError(f"on_mismatch is {on_mismatch!r}; it must be 'refuse' or 'warn'")
    support = tenor_support(pipeline)
    if support.status == "impossible" or (support.status == "untrained" and on_mismatch == "refuse"):
        raise ValueError(f"TENOR can't be switched on: {support.reason}")
    if support.status != "trained":
        warnings.warn(f"TENOR on weights that may not know it: {support.reason}", stacklevel=2)
    elif support.scale < WEAK_SCALE:
        _warn_weak(support.scale)
    if position_mode is None and support.sidecar is not None:
        position_mode = support.sidecar.position_mode
    return install_tenor(denoiser_of(pipeline), position_mode)


def disable_tenor(pipeline: Any) -> None:
    """Take TENOR out; the pipeline computes again exactly what it did before."""
    remove_tenor(denoiser_of(pipeline))


def has_tenor(pipeline: Any) -> bool:
    """Whether every text layer of the pipeline sees positions."""
    return is_installed(denoiser_of(pipeline))


def check_tenor(pipeline: Any, wanted: bool | None = None) -> None:
    """Look before sampling whether TENOR and the weights still go together.

    Args:
        wanted: the person's own choice; None: whatever the weights were trained with.
    Raises:
        ValueError: TENOR is on while the CoMPaSS adapter has strength 0, or off while the weights need it.
    """
    support, installed = tenor_support(pipeline), has_tenor(pipeline)
    if support.status == "trained":
        if not installed and wanted is None:
            raise ValueError("these weights need TENOR, but it isn't installed: call enable_tenor(pipeline)")
        if installed and support.scale < WEAK_SCALE:
            _warn_weak(support.scale)
    elif installed and support.status == "untrained" and wanted is None:
        raise ValueError(f"TENOR is on, but {support.reason}: call disable_tenor(pipeline)")
    handle = find_tenor(denoiser_of(pipeline))
    if handle is not None and not installed:
        raise ValueError("TENOR is installed in a part of the layers only: call enable_tenor(pipeline) again")


def _warn_weak(scale: float) -> None:
    warnings.warn(
        f"the CoMPaSS adapter has strength {scale:.2f}, but TENOR works in full: they were trained together",
        stacklevel=3,
    )
