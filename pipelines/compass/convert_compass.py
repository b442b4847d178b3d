"""Published CoMPaSS weights as folders of our own: `python -m pipelines.compass.convert_compass SOURCE
FOLDER`.

A FLUX adapter in x-flux layout becomes a diffusers adapter file, a UNet stays what it is; beside either of
them the sidecar says that it was trained with TENOR.
"""

import argparse
import shutil
from pathlib import Path

from pipelines.compass.sidecar import MAX_LENGTH, Sidecar, write_sidecar
from pipelines.compass.weights_compass import LORA_FILE, Weights, find_weights, read_adapter


def convert_compass(source: Path | str, folder: Path, tenor: bool | None = None) -> Weights:
    """Write the folder.

    Args:
        source: see `weights_compass.find_weights`.
        folder: must not exist, or be empty.
        tenor: whether the weights were trained with it; needed where neither a sidecar nor the repository
            tells.
    Raises:
        ValueError: unusable weights, a folder in use, or nothing that tells about TENOR.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} isn't empty")
    found = find_weights(source)
    variant = "unet" if found.kind.startswith("unet") else "flux-double"
    sidecar = found.sidecar
    if sidecar is None:
        if tenor is None:
            raise ValueError(
                f"nothing tells whether {source} was trained with TENOR: say --tenor or --no-tenor"
            )
        sidecar = Sidecar(tenor, variant, MAX_LENGTH[variant])
    elif tenor is not None and tenor != sidecar.tenor:
        raise ValueError(f"{source} was trained {'with' if sidecar.tenor else 'without'} TENOR")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write(found, part)
        write_sidecar(part, sidecar)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found


def _write(found: Weights, folder: Path) -> None:
    if found.kind == "unet":
        from diffusers import UNet2DConditionModel

        where = {"subfolder": "unet"} if not Path(found.source).is_dir() else {}
        UNet2DConditionModel.from_pretrained(found.source, **where).save_pretrained(folder / "unet")
        return
    from safetensors.torch import save_file

    state, alphas = read_adapter(found.source, found.kind)
    if alphas:
        raise ValueError(f"{found.source} has a strength of its own for each layer; load it as it is")
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / LORA_FILE)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compass.convert_compass", description=__doc__)
    parser.add_argument("source", help="safetensors file, folder, or repository id")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--tenor", action=argparse.BooleanOptionalAction, help="trained with TENOR or not")
    options = parser.parse_args(arguments)
    found = convert_compass(options.source, options.folder, options.tenor)
    print(f"{found.kind} from {found.source} written to {options.folder}")


if __name__ == "__main__":
    main()
