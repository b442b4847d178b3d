"""SCOP on a made-up annotation file of COCO's size: `python -m pipelines.compass.scop_benchmark`.

The file has as many boxes, images and outline points as COCO-2017 train; no pictures are needed.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

COCO_BOXES, COCO_IMAGES, CATEGORIES = 860_001, 118_287, 80


def write_annotations(
    target: Path, boxes: int = COCO_BOXES, images: int = COCO_IMAGES, seed: int = 0
) -> None:
    """A COCO instances file with boxes of random places and sizes, in no order of images.

    The number of boxes of an image is spread as widely as in COCO (some have none, some about a hundred).
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(400, 641, (images, 2))
    crowdedness = rng.gamma(1.0, size=images)
    image = rng.choice(images, boxes, p=crowdedness / crowdedness.sum())
    side = np.exp(rng.uniform(np.log(8), np.log(300), (boxes, 2)))
    corner = rng.random((boxes, 2)) * np.maximum(sizes[image] - side, 1)
    category = rng.integers(1, CATEGORIES + 1, boxes)
    outline = ",".join(f"{value:.2f}" for value in rng.uniform(0, 600, 44))
    with target.open("w", encoding="ascii") as out:
        out.write('{"info": {"description": "made up"}, "images": [')
        for index, (width, height) in enumerate(sizes.tolist()):
            name = f"{index + 1:012d}.jpg"
            entry = {"id": index + 1, "width": width, "height": height, "file_name": name}
            out.write(("," if index else "") + json.dumps(entry))
        out.write('], "annotations": [')
        for index in range(boxes):
            (x, y), (w, h) = corner[index], side[index]
            out.write(
                f'{"," if index else ""}{{"segmentation": [[{outline}]], "area": {w * h:.2f}, "iscrowd": 0, '
                f'"image_id": {image[index] + 1}, "bbox": [{x:.2f}, {y:.2f}, {w:.2f}, {h:.2f}], '
                f'"category_id": {category[index]}, "id": {index + 1}}}'
            )
        names = [{"id": number, "name": f"thing {number}"} for number in range(1, CATEGORIES + 1)]
        out.write(f'], "categories": {json.dumps(names)}}}')


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compass.scop_benchmark", description=__doc__)
    parser.add_argument("--boxes", type=int, default=COCO_BOXES)
    parser.add_argument("--images", type=int, default=COCO_IMAGES)
    parser.add_argument("--profile", default="official", choices=("official", "strict"))
    parser.add_argument("--scratch", type=Path, help="folder for the files (default: a temporary one)")
    options = parser.parse_args(arguments)
    from pipelines.compass.scop import run_scop
    from pipelines.compass.scop_rules import ScopParams
    from pipelines.runtime import peak_bytes

    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        file = Path(folder) / "instances.json"
        write_annotations(file, options.boxes, options.images)
        megabytes = file.stat().st_size / 1e6
        before, began = peak_bytes(), time.monotonic()
        report = run_scop(file, None, Path(folder) / "out", ScopParams(profile=options.profile))
        seconds = time.monotonic() - began
    figures = {
        "file_mb": round(megabytes, 1),
        "boxes": report.boxes,
        "pairs": report.pairs,
        "accepted": report.accepted,
        "seconds": {"all": round(seconds, 1), **report.seconds},
        "pairs_per_second": report.pairs_per_second,
        "peak_mb": round(peak_bytes() / 1e6),
        "peak_mb_before": round(before / 1e6),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
