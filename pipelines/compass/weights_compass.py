"""Loading CoMPaSS weights into a pipeline: published FLUX adapters (x-flux layout), our own, and UNets.

The authors' loader multiplies both factors of an adapter by its weight, so that a weight of 0.5 works as
0.25. Strength is linear here; `official_strength` converts.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipelines.compass.sidecar import MAX_LENGTH, Sidecar, published_sidecar, read_sidecar
from pipelines.compass.support import BASE, adapter_scales, denoiser_of, enable_tenor, note_weights
from pipelines.compass.tenor import remove_tenor, tenor_variant

ADAPTER = "compass"
LORA_FILE = "pytorch_lora_weights.safetensors"
_XFLUX = re.compile(r"double_blocks\.\d+\.processor\.qkv_lora2\.")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def official_strength(weight: float) -> float:
    """Linear strength that equals `weight` in the authors' loader."""
    return weight * weight


def weights_kind(keys: Mapping[str, Any] | list[str]) -> str:
    """What a state dict is, by its keys.

    Returns:
        "xflux-lora" (published FLUX adapters), "flux-lora", "unet-lora" (diffusers layout), or "unet".
    Raises:
        ValueError: none of them.
    """
    names = list(keys)
    if any(_XFLUX.search(name) for name in names):
        return "xflux-lora"
    adapters = [name for name in names if ".lora_A." in name or ".lora_B." in name]
    for prefix in ("transformer", "unet"):
        if adapters and all(name.startswith(f"{prefix}.") for name in adapters):
            return "flux-lora" if prefix == "transformer" else "unet-lora"
    if "conv_in.weight" in names and any(name.startswith("down_blocks.") for name in names):
        return "unet"
    shown = ", ".join(names[:3])
    raise ValueError(f"these are no CoMPaSS weights: expected an adapter or a UNet, got keys such as {shown}")


@dataclass(frozen=True)
class Weights:
    """Weights that were found.

    Attributes:
        kind: see `weights_kind`. source: file, UNet folder, or repository id. sidecar: where one is known.
    """

    kind: str
    source: str
    sidecar: Sidecar | None


def find_weights(source: Path | str) -> Weights:
    """Look at a safetensors file, a folder, or a repository id (which is only then asked for online).

    Raises:
        ValueError: nothing usable is there.
    """
    path = Path(source)
    if path.is_dir():
        return _find_in_folder(path)
    if path.is_file():
        return Weights(weights_kind(_keys(path)), str(path), read_sidecar(path.parent))
    known = published_sidecar(str(source))
    if known is not None and _REPOSITORY.fullmatch(str(source)):
        return Weights("xflux-lora" if known.variant == "flux-double" else "unet", str(source), known)
    raise ValueError(f"there are no weights at {source}: expected a file, a folder, or blurgy/CoMPaSS-...")


def _find_in_folder(path: Path) -> Weights:
    for folder in (path / "unet", path):
        if (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
            return Weights("unet", str(folder), read_sidecar(folder) or read_sidecar(path))
    files = sorted(path.glob("*.safetensors"))
    chosen = [file for file in files if file.name == LORA_FILE] or files
    # published folders also hold a copy for another program; the layouts we know come first
    for file in chosen:
        try:
            return Weights(weights_kind(_keys(file)), str(file), read_sidecar(path))
        except ValueError:
            continue
    raise ValueError(f"{path} holds neither an adapter nor a UNet")


def _keys(file: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} can't be read as safetensors ({error})") from None


def read_adapter(
    source: str | dict[str, Tensor], kind: str
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """An adapter in diffusers' keys, and its alphas where the layout has some.

    Args:
        source: safetensors file, repository id, or the tensors themselves. kind: see `weights_kind`.
    """
    from diffusers.loaders import FluxLoraLoaderMixin, StableDiffusionLoraLoaderMixin
    from safetensors.torch import load_file

    state: Any = source
    if isinstance(source, dict):
        state = dict(source)  # diffusers takes keys out of it
    elif Path(source).is_file():
        state = load_file(source)
    if kind == "unet-lora":
        return StableDiffusionLoraLoaderMixin.lora_state_dict(state)
    return FluxLoraLoaderMixin.lora_state_dict(state, return_alphas=True)


def adapter_problem(model: nn.Module, state: Mapping[str, Tensor], prefix: str) -> str | None:
    """Why an adapter doesn't fit a model, as a sentence; None when it does."""
    modules = dict(model.named_modules())
    for name, tensor in state.items():
        if not name.endswith(("lora_A.weight", "lora_B.weight")):
            continue
        path, factor = name.removeprefix(f"{prefix}.").rsplit(".lora_", 1)
        layer = modules.get(path)
        layer = getattr(layer, "base_layer", layer)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            return f"the adapter is for {path}, which this model doesn't have"
        side = 1 if factor.startswith("A") else 0
        wanted, given = layer.weight.shape[side], tensor.shape[side]
        if wanted != given:
            return f"the adapter's {path} has {given} channels, the model's has {wanted}"
    return None


def load_compass(
    pipeline: Any,
    source: Path | str,
    *,
    scale: float = 1.0,
    tenor: bool | None = None,
    adapter: str = ADAPTER,
    position_mode: str | None = None,
) -> Weights:
    """Load CoMPaSS weights into a pipeline and switch TENOR on when they were trained with it.

    Args:
        pipeline: any diffusers pipeline with a FLUX-type transformer or a UNet.
        source: safetensors file, folder, or repository id of the authors.
        scale: linear strength of an adapter, above 0; other adapters keep theirs.
        tenor: whether the weights were trained with it, where nothing else tells (no sidecar, no known
            repository): the keys of an adapter or UNet don't.
        adapter: name of the adapter; one of that name is replaced.
        position_mode: see `enable_tenor`.
    Raises:
        ValueError: weights that don't fit the model, or a strength of 0.
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale is {scale}; it must be above 0, and the weights are not needed without it")
    found = find_weights(source)
    model = denoiser_of(pipeline)
    variant = "unet" if found.kind.startswith("unet") else "flux-double"
    if tenor_variant(model) != variant:
        raise ValueError(f"{source} is for {variant}, but {type(model).__name__} is not")
    sidecar = found.sidecar
    if sidecar is None and tenor is not None:
        sidecar = Sidecar(tenor, variant, MAX_LENGTH[variant], position_mode or "continuous")
    elif sidecar is None:
        warnings.warn(
            f"nothing tells whether {source} was trained with TENOR; it stays off (give tenor=True)",
            stacklevel=2,
        )
        sidecar = Sidecar(False, variant, 1)
    elif tenor is not None and tenor != sidecar.tenor:
        raise ValueError(f"{source} was trained {'with' if sidecar.tenor else 'without'} TENOR")
    if found.kind == "unet":
        _replace_unet(pipeline, found.source, sidecar)
    else:
        _load_adapter(pipeline, found, adapter, scale, sidecar)
    if sidecar.tenor:
        enable_tenor(pipeline, position_mode)
    else:
        remove_tenor(denoiser_of(pipeline))
    return found


def _load_adapter(pipeline: Any, found: Weights, adapter: str, scale: float, sidecar: Sidecar) -> None:
    model: Any = denoiser_of(pipeline)
    state, alphas = read_adapter(found.source, found.kind)
    prefix = "unet" if found.kind == "unet-lora" else "transformer"
    if (problem := adapter_problem(model, state, prefix)) is not None:
        raise ValueError(f"{found.source} doesn't fit: {problem}")
    scales = adapter_scales(model)
    if adapter in scales:
        model.delete_adapters(adapter)
    model.load_lora_adapter(
        state, prefix=prefix, network_alphas=alphas or None, adapter_name=adapter, _pipeline=pipeline
    )
    others = {name: value for name, value in scales.items() if name != adapter and value > 0}
    model.set_adapters([*others, adapter], [*others.values(), scale])
    note_weights(model, adapter, sidecar)


def _replace_unet(pipeline: Any, source: str, sidecar: Sidecar) -> None:
    """Put another UNet in the place of the pipeline's."""
    from diffusers import UNet2DConditionModel

    old: Any = pipeline.unet
    if loaded := adapter_scales(old):
        raise ValueError(
            f"adapters {sorted(loaded)} would be lost with the UNet: load them after CoMPaSS's weights"
        )
    where = {"subfolder": "unet"} if not Path(source).is_dir() else {}
    new = UNet2DConditionModel.from_pretrained(source, torch_dtype=old.dtype, **where)
    for name in ("in_channels", "out_channels", "cross_attention_dim"):
        if new.config[name] != old.config[name]:
            raise ValueError(
                f"{source} doesn't fit: its {name} is {new.config[name]}, not {old.config[name]}"
            )
    pipeline.register_modules(unet=new.to(old.device).eval())
    note_weights(new, BASE, sidecar)
