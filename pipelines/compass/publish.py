"""Turn a run's averaged weights into a folder: `python -m pipelines.compass.publish flux --state S --folder
F`.

The sidecar that the run kept goes with them; half precision, safetensors. A UNet is published whole, or with
`--rank` as an adapter: what the run changed, in the best approximation of that rank per layer.
"""

import argparse
import shutil
from pathlib import Path

import torch

from pipelines.compass.sidecar import Sidecar, read_sidecar, write_sidecar
from pipelines.compass.weights_compass import LORA_FILE
from pipelines.storybook.publish import SHARD, averaged
from pipelines.training.low_rank import low_rank_change


def _trained_with(state: Path, variant: str) -> Sidecar:
    sidecar = read_sidecar(state)
    if sidecar is None or sidecar.variant != variant:
        raise ValueError(f"{state} holds no run of a {variant} model")
    return sidecar


def publish_flux(state: Path, folder: Path, parts: Path | None = None, rank: int | None = None) -> None:
    """Write an adapter folder.

    Raises:
        ValueError: a rank, which is that of the run here.
    """
    from safetensors.torch import save_file

    if rank is not None:
        raise ValueError("--rank is for sd; an adapter keeps the rank of its run")
    sidecar = _trained_with(state, "flux-double")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in averaged(state).items()}, folder / LORA_FILE)
    write_sidecar(folder, sidecar)


def publish_sd(state: Path, folder: Path, parts: Path | None = None, rank: int | None = None) -> None:
    """Write `unet/` below the folder (its config is that of the model the run started from), or an adapter.

    Args:
        parts: model folder that the run started from. rank: of the adapter; None: the whole UNet.
    """
    from diffusers import UNet2DConditionModel

    sidecar = _trained_with(state, "unet")
    if parts is None:
        raise ValueError("a UNet needs --parts: the model folder that the run started from")
    if rank is not None and rank < 1:
        raise ValueError(f"--rank is {rank}; it must be at least 1")
    trained = {name: value.float() for name, value in averaged(state).items()}
    unet = UNet2DConditionModel.from_pretrained(parts / "unet", torch_dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    if rank is None:
        unet.load_state_dict(trained)
        shutil.rmtree(folder / "unet", ignore_errors=True)
        unet.half().save_pretrained(folder / "unet", max_shard_size=SHARD)
        (folder / LORA_FILE).unlink(missing_ok=True)
    else:
        from safetensors.torch import save_file

        factors = low_rank_change(unet.state_dict(), trained, rank)
        save_file({f"unet.{name}": value for name, value in factors.items()}, folder / LORA_FILE)
        shutil.rmtree(folder / "unet", ignore_errors=True)
    write_sidecar(folder, sidecar)


PARTS = {"flux": publish_flux, "sd": publish_sd}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compass.publish", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--state", type=Path, required=True, help="state folder of the run")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write")
    parser.add_argument("--parts", type=Path, help="sd: model folder that the run started from")
    parser.add_argument("--rank", type=int, help="sd: publish the change as an adapter of this rank")
    options = parser.parse_args(arguments)
    try:
        PARTS[options.part](options.state, options.folder, options.parts, options.rank)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
