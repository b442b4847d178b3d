"""What scores are held against, measured once and stored beside the CLIP model that scores:

python -m pipelines.longalign.measure_reference --folder assets/weights/storybook-clip
"""

import argparse
from pathlib import Path

from pipelines.longalign.pages import page_of
from pipelines.longalign.preference_model import (
    REFERENCE_FILE,
    STORYBOOK_INPUT,
    PreferenceModel,
    Reference,
    measure_reference,
)
from pipelines.storybook.dataset import to_tensor
from pipelines.storybook.draw import draw_scene

PAGES = 1024
DRAWINGS = 256
SIDE = 128  # pixels of a drawing
SEED = 168


def storybook_reference(model: PreferenceModel, seed: int = SEED) -> Reference:
    """The common direction of Storybook's pages, and the mean picture over drawings of the first of them."""
    pages = [page_of(seed, index) for index in range(PAGES)]
    drawings = [draw_scene(page.scene, SIDE, SIDE) for page in pages[:DRAWINGS]]
    pictures = to_tensor(drawings).mul(0.5).add(0.5)
    return measure_reference(model, [page.text for page in pages], pictures)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.longalign.measure_reference", description=__doc__
    )
    parser.add_argument("--folder", type=Path, required=True, help="CLIP model; the file is written into it")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    model = PreferenceModel.from_pretrained(options.folder, STORYBOOK_INPUT)
    storybook_reference(model, options.seed).save(options.folder / REFERENCE_FILE)


if __name__ == "__main__":
    main()
