"""Turn a run's averaged weights into a folder: `python -m pipelines.compass.publish flux --state S --folder
F`.

The sidecar that the run kept goes with them; half precision, safetensors.
"""

import argparse
import shutil
from pathlib import Path

from pipelines.compass.sidecar import Sidecar, read_sidecar, write_sidecar
from pipelines.compass.weights_compass import LORA_FILE
from pipelines.storybook.publish import SHARD, averaged


def _trained_with(state: Path, variant: str) -> Sidecar:
    sidecar = read_sidecar(state)
    if sidecar is None or sidecar.variant != variant:
        raise ValueError(f"{state} holds no run of a {variant} model")
    return sidecar


def publish_flux(state: Path, folder: Path, parts: Path | None = None) -> None:
    """Write an adapter folder."""
    from safetensors.torch import save_file

    sidecar = _trained_with(state, "flux-double")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in averaged(state).items()}, folder / LORA_FILE)
    write_sidecar(folder, sidecar)


def publish_sd(state: Path, folder: Path, parts: Path | None = None) -> None:
    """Write `unet/` below the folder; its config is that of the model the run started from."""
    from diffusers import UNet2DConditionModel

    sidecar = _trained_with(state, "unet")
    if parts is None:
        raise ValueError("a UNet needs --parts: the model folder that the run started from")
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(parts / "unet"))
    unet.load_state_dict({name: value.float() for name, value in averaged(state).items()})
    shutil.rmtree(folder / "unet", ignore_errors=True)
    unet.half().save_pretrained(folder / "unet", max_shard_size=SHARD)
    write_sidecar(folder, sidecar)


PARTS = {"flux": publish_flux, "sd": publish_sd}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compass.publish", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write")
    parser.add_argument("--parts", type=Path, help="sd: model folder that the run started from")
    options = parser.parse_args(arguments)
    PARTS[options.part](options.state, options.folder, options.parts)


if __name__ == "__main__":
    main()
