"""Turn averaged weights into a model folder: `python -m pipelines.flextok.publish flextok --state DIR ...`.

One folder holds the tokenizer (vae, encoder, decoder) and, once it is trained, the generator (transformer,
text_encoder, tokenizer): `FlexTokPipeline` and `FlexARPipeline` both load it. Where the same autoencoder lies
beside it (in `storybook-sd`), or the text encoder's folder (`--parts`), the index names it instead of a copy.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.flextok.lent_text import PARTS as TEXT_PARTS
from pipelines.flextok.lent_text import text_beside
from pipelines.shared_vae import vae_beside
from pipelines.storybook.publish import SHARD, averaged
from pipelines.training.command import Uses, parse_recipe
from pipelines.weights import SHARED_TEXT, SHARED_VAE

TOKENIZER_PARTS = {
    "vae": ["diffusers", "AutoencoderKL"],
    "encoder": ["pipelines.flextok.transformer_flextok", "FlexTokEncoderModel"],
    "decoder": ["pipelines.flextok.transformer_flextok", "FlexTokDecoderModel"],
}
GENERATOR_PARTS = {
    "transformer": ["pipelines.flextok.transformer_flexar", "FlexARModel"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
}
DEFAULT_STEPS, DEFAULT_GUIDANCE = 16, 7.0
DEFAULT_KEEP = 32  # tokens drawn from text: later ones tell details, and a small generator errs in them
SETTINGS = {"steps": DEFAULT_STEPS, "guidance": DEFAULT_GUIDANCE, "keep": DEFAULT_KEEP}


def publish_tokenizer(options: argparse.Namespace, parts: Sequence[str] = ("encoder", "decoder")) -> None:
    """Encoder, decoder and the autoencoder they were trained on: a copy, or the name of the one beside."""
    from pipelines.flextok.train_tokenizer import DECODER, ENCODER, split_state
    from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel

    states = split_state(averaged(options.state))
    if missing := [name for name in parts if not states[name]]:
        raise ValueError(f"{options.state} holds no {' and no '.join(missing)}")
    kinds = {"encoder": (FlexTokEncoderModel, ENCODER), "decoder": (FlexTokDecoderModel, DECODER)}
    for name in parts:
        kind, sizes = kinds[name]
        model = kind(**sizes)
        model.load_state_dict(states[name])
        _save(model.half(), options.folder / name)
    settings = _settings(options, "steps", "guidance")
    if shared := vae_beside(options.parts / "vae", options.folder):
        shutil.rmtree(options.folder / "vae", ignore_errors=True)
        settings[SHARED_VAE] = shared
    else:
        _copy(options.parts / "vae", options.folder / "vae")
    write_index(options.folder, settings)


def publish_generator(options: argparse.Namespace) -> None:
    """The transformer and the text encoder it listened to: a copy, or the name of the one beside."""
    from pipelines.flextok.train_flexar import MODEL
    from pipelines.flextok.transformer_flexar import FlexARModel

    state = {name: value.float() for name, value in averaged(options.state).items()}
    base = "ar_image_model.preprocessor."
    model = FlexARModel(
        **MODEL,
        vocab_size=len(state[f"{base}embedding.weight"]),
        num_tokens=len(state[f"{base}positional_embedding"]),
        text_dim=state["text_encoder.mlp.fc1.weight"].shape[1],
    )
    model.load_state_dict(state)
    _save(model.half(), options.folder / "transformer")
    shared = text_beside(options.parts, options.folder)
    for name, source in zip(("text_encoder", "tokenizer"), TEXT_PARTS, strict=True):
        if shared:
            shutil.rmtree(options.folder / name, ignore_errors=True)
        else:
            _copy(options.parts / source, options.folder / name)
    settings = _settings(options, "keep")
    settings["default_keep"] = min(settings["default_keep"], model.config.num_tokens)
    write_index(options.folder, settings | ({SHARED_TEXT: shared} if shared else {}))


def _settings(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What the options say of decoding and drawing, else the folder's index, else the recipe's numbers."""
    path = options.folder / "model_index.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    settings = {}
    for name in names:
        told = (getattr(options, name), known.get(f"default_{name}"), SETTINGS[name])
        settings[f"default_{name}"] = next(value for value in told if value is not None)
    return settings


def _save(model: Any, folder: Path) -> None:
    """Save under a temporary name, then take the place of what was there."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, max_shard_size=SHARD)
    _replace(part, folder)


def _copy(source: Path, folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    _replace(part, folder)


def _replace(part: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def write_index(folder: Path, settings: dict[str, Any] | None = None) -> None:
    """The `model_index.json` of the parts that are there; settings given before are kept."""
    path = folder / "model_index.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    kept = {name: value for name, value in known.items() if name.startswith("default_")}
    for key, name in ((SHARED_VAE, "vae"), (SHARED_TEXT, "text_encoder")):
        if key in known and not (folder / name).is_dir():
            kept[key] = known[key]
    is_generator = (folder / "transformer").is_dir()
    index = {
        "_class_name": "FlexARPipeline" if is_generator else "FlexTokPipeline",
        "_diffusers_version": "0.42.0",
        **TOKENIZER_PARTS,
        **(GENERATOR_PARTS if is_generator else {}),
        **kept,
        **(settings or {}),
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    os.replace(part, path)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "flextok": publish_tokenizer,
    "encoder": partial(publish_tokenizer, parts=("encoder",)),
    "decoder": partial(publish_tokenizer, parts=("decoder",)),
    "flexar": publish_generator,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.flextok.publish", description=__doc__)
    parser.add_argument("recipe", metavar="part", choices=sorted(PARTS), help=", ".join(sorted(PARTS)))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="model folder")
    parser.add_argument(
        "--parts",
        type=Path,
        default=Path("assets/weights/storybook-flux"),
        help="folder the run took its parts from",
    )
    tokenizer = "all but flexar; default: the folder's, else"
    parser.add_argument("--steps", type=int, help=f"decoding steps ({tokenizer} {DEFAULT_STEPS})")
    parser.add_argument("--guidance", type=float, help=f"of decoding ({tokenizer} {DEFAULT_GUIDANCE:g})")
    parser.add_argument(
        "--keep",
        type=int,
        help=f"tokens drawn from text (flexar; default: the folder's, else {DEFAULT_KEEP})",
    )
    uses = {part: Uses(takes=("steps", "guidance")) for part in PARTS}
    options = parse_recipe(parser, {**uses, "flexar": Uses(takes=("keep",))}, arguments)
    for name, least in (("steps", 1), ("guidance", 0.0), ("keep", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} is {value:g}; allowed: {least:g} or more")
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        PARTS[options.recipe](options)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
