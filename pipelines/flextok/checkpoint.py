"""Published checkpoints: folders with `config.json`, single files with metadata, and FlexAR folders.

Only safetensors are opened, config values are parsed as literals, classes come from an allow-list, and every
tensor has to be there with its shape.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from torch import nn

from pipelines.flextok.config import SECTIONS, TokenizerSettings, read_tree
from pipelines.flextok.strict_loading import key_problems
from pipelines.flextok.transformer_flexar import FlexARModel
from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel

MAX_ENTRY = 200_000  # characters of one metadata entry; published ones have under 10,000
VAE_LAYOUT = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "sample_size": 1024,
}
PREFIXES = {"vae": "vae.vae.", "encoder": "encoder.", "decoder": "decoder."}


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of one safetensors file.

    Raises:
        ValueError: not a safetensors file (pickles and archives are never opened), or damaged.
        OSError: it can't be read.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a .safetensors file; other formats can run code and aren't opened"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or not a safetensors file ({error})") from error


def parse_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The config tree in a file's metadata: one literal (no code) per top-level key.

    Raises:
        ValueError: entries are missing, too long or aren't plain literals.
    """
    missing = [name for name in SECTIONS if name not in metadata]
    if missing:
        raise ValueError(f"the file's metadata holds no tokenizer config: {', '.join(missing)} missing")
    tree: dict[str, Any] = {}
    for name in (*SECTIONS, "_target_"):
        text = metadata.get(name)
        if text is None:
            continue
        if len(text) > MAX_ENTRY:
            raise ValueError(f"metadata entry {name} has {len(text)} characters; at most {MAX_ENTRY}")
        if name == "_target_":
            tree[name] = text.strip("'\"")
            continue
        try:
            tree[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise ValueError(f"metadata entry {name} is not a plain literal") from error
    return tree


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it can't be read as one.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as a config ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no config: an object was expected")
    return found


def read_tokenizer(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config tree and tensors of a published folder or of a single file.

    Raises:
        ValueError, OSError: see `read_safetensors` and `parse_metadata`.
    """
    path = Path(path)
    if not path.is_dir():
        tensors, metadata = read_safetensors(path)
        return parse_metadata(metadata), tensors
    file = path / "model.safetensors"
    if not file.is_file():
        found = sorted(item.name for item in path.iterdir() if item.is_file())
        raise ValueError(f"{path} has no model.safetensors (files: {', '.join(found[:8]) or 'none'})")
    return read_json(path / "config.json"), read_safetensors(file)[0]


def fingerprint(*models: nn.Module) -> str:
    """Eight hex digits that change whenever a weight does."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def load_strictly(
    models: Mapping[str, nn.Module],
    tensors: Mapping[str, torch.Tensor],
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Give each model the tensors below its prefix; the models may be on the meta device.

    Args:
        models: prefix to model; together they own every key.
        dtypes: prefix to what the model's weights become. Default: float32.
    Raises:
        ValueError: missing, unknown or misshapen tensors, or integers where weights belong; all are counted.
    """
    expected = {
        prefix + name: value for prefix, model in models.items() for name, value in model.state_dict().items()
    }
    problems = [f"missing {name}" for name in sorted(set(expected) - set(tensors))]
    problems += [f"unknown {name}" for name in sorted(set(tensors) - set(expected))]
    for name in sorted(set(expected) & set(tensors)):
        want, found = expected[name], tensors[name]
        if want.shape != found.shape:
            problems.append(f"{name} is {list(found.shape)} instead of {list(want.shape)}")
        elif not found.is_floating_point():
            problems.append(f"{name} holds {found.dtype}")
    if problems:
        raise ValueError(f"the checkpoint doesn't fit its config: {key_problems(problems)}")
    for prefix, model in models.items():
        dtype = (dtypes or {}).get(prefix, torch.float32)
        own = {
            name.removeprefix(prefix): t.to(dtype) for name, t in tensors.items() if name.startswith(prefix)
        }
        model.load_state_dict(own, assign=True)
        model.eval()


def build_models(settings: TokenizerSettings, vae_config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Models of a config on the meta device: "vae", "encoder", "decoder".

    Args:
        vae_config: of the autoencoder, where it isn't the published layout.
    """
    vae = {**VAE_LAYOUT, "latent_channels": settings.vae.latent_channels}
    if vae_config is not None:
        vae = {name: value for name, value in vae_config.items() if not name.startswith("_")}
    if settings.vae.scaling_factor is not None:
        vae["scaling_factor"] = settings.vae.scaling_factor
    with torch.device("meta"):
        return {
            "vae": AutoencoderKL(**vae),
            "encoder": FlexTokEncoderModel(**settings.encoder),
            "decoder": FlexTokDecoderModel(**settings.decoder),
        }


def load_tokenizer(
    path: str | Path, dtype: torch.dtype = torch.float32, vae_config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], TokenizerSettings]:
    """Models of a published folder or single file, in eval mode, and the settings they came with.

    Args:
        dtype: of all parts; the autoencoder stays in float32 when the config asks for that.
        vae_config: config of the autoencoder, where it isn't the published layout.
    Raises:
        ValueError: anything about the file that isn't as it should be. OSError: it can't be read.
    """
    tree, tensors = read_tokenizer(path)
    settings = read_tree(tree)
    models = build_models(settings, vae_config)
    dtypes = dict.fromkeys(PREFIXES.values(), dtype)
    if settings.vae.keeps_float32:
        dtypes[PREFIXES["vae"]] = torch.float32
    load_strictly({PREFIXES[name]: model for name, model in models.items()}, tensors, dtypes)
    return models, settings


_EXTRA_AR = ("models.image_tokenizer.", "models.text_encoder.t5_embedder.")
_HEAD_DIM = 64


def ar_arguments(shapes: Mapping[str, Iterable[int]], num_heads: int | None = None) -> dict[str, Any]:
    """Constructor arguments of `FlexARModel` for a published state dict (names without `models.`).

    The published config file says nothing that the shapes don't, except the number of heads.

    Args:
        num_heads: Default: heads of 64.
    Raises:
        ValueError: tensors that such a model has are missing, or it is a variant that isn't supported.
    """
    base = "ar_image_model."
    sizes = {name: tuple(shape) for name, shape in shapes.items()}
    wanted = ("preprocessor.embedding.weight", "preprocessor.positional_embedding")
    if any(base + name not in sizes or len(sizes[base + name]) != 2 for name in wanted):
        raise ValueError(f"this isn't a FlexAR checkpoint: {base}{wanted[0]} or {wanted[1]} is missing")
    (vocab_size, width), (num_tokens, _) = (sizes[base + name] for name in wanted)
    layers = {name.split(".")[3] for name in sizes if name.startswith(f"{base}trunk.blocks.")}
    classes = sizes.get(f"{base}preprocessor.cls_embedding.weight")
    text = sizes.get("text_encoder.mlp.fc1.weight")
    if (classes is None) == (text is None):
        raise ValueError("a FlexAR checkpoint has either class embeddings or a text projection")
    arguments: dict[str, Any] = {
        "vocab_size": vocab_size,
        "num_tokens": num_tokens,
        "width": width,
        "depth": len(layers),
        "num_heads": num_heads or max(width // _HEAD_DIM, 1),
    }
    if classes is not None:
        return {**arguments, "condition": "class", "num_classes": classes[0]}
    assert text is not None  # one of the two
    return {**arguments, "condition": "text", "text_dim": text[0]}


def load_ar(
    path: str | Path, dtype: torch.dtype = torch.float32, num_heads: int | None = None
) -> FlexARModel:
    """A published FlexAR folder or file as a model in eval mode.

    Parts that belong to other models (image tokenizer, text encoder) are left out; they are loaded as such.

    Raises:
        ValueError: another variant, missing, unknown or misshapen tensors. OSError: it can't be read.
    """
    path = Path(path)
    tensors, _ = read_safetensors(path / "model.safetensors" if path.is_dir() else path)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(_EXTRA_AR)}
    arguments = ar_arguments({n.removeprefix("models."): t.shape for n, t in own.items()}, num_heads)
    with torch.device("meta"):
        model = FlexARModel(**arguments)
    load_strictly({"models.": model}, own, {"models.": dtype})
    return model
