"""What painted pictures show, as the judge sees them; every answer is kept, so that a measurement resumes."""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipelines.storybook.prompts import Asked, one_object_prompts, two_object_prompts
from pipelines.storybook.verify import Share, one_object_right, place_right, verify

Paint = Callable[[list[str], list[torch.Generator]], list[Image.Image]]
WEIGHTS = Path("assets/weights")
CACHE = Path("runs/evaluation")
BATCH = 20
FIRST_SEED = 1000


class Answers:
    """Answers by index, one JSON line each; a line cut short by a kill counts as not written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_index: dict[int, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                self.by_index[record.pop("index")] = record

    def add(self, index: int, answer: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._is_cut() + json.dumps({"index": index, **answer}) + "\n")
        self.by_index[index] = answer

    def _is_cut(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        return not self.path.read_bytes().endswith(b"\n")


def weights_key(*folders: Path, extra: str = "") -> str:
    """Twelve hexadecimal digits that change with any weight or configuration file of the folders.

    Adapters lie in the folder of their pipeline and mostly do not act: of such a folder only the parts that
    its index names count. Name the folder of an adapter beside it where one does.
    """
    digest = hashlib.sha256(extra.encode())
    for folder in folders:
        for path in _weight_files(folder):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _weight_files(folder: Path) -> list[Path]:
    """Weights and configurations in a folder; in that of a pipeline, its own and those of its parts."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".json")]
    index = folder / "model_index.json"
    if not index.is_file():
        return files
    parts = json.loads(index.read_text(encoding="utf-8"))
    return [path for path in files if path.parent == folder or path.relative_to(folder).parts[0] in parts]


def judge_pictures(paint: Paint, judge: Any, asked: Sequence[Asked], answers: Answers) -> dict[str, Share]:
    """Paint what is missing among `asked`, and count.

    Picture i starts from seed 1000 + i, nothing is picked.

    Returns:
        One object: "colour", "kind", "kind_and_colour", "place", "everything". Several: "present" (all there
        with kind and colour, OA of VISOR, arXiv:2212.10015), "objects" (share of them), "place".
    """
    from pipelines.storybook.detector import detect

    missing = [index for index in range(len(asked)) if index not in answers.by_index]
    for first in range(0, len(missing), BATCH):
        part = missing[first : first + BATCH]
        generators = [torch.Generator().manual_seed(FIRST_SEED + index) for index in part]
        pictures = paint([asked[index].text for index in part], generators)
        for index, seen in zip(part, detect(judge, pictures), strict=True):
            answers.add(index, judged(seen, asked[index]))
    kept = [answers.by_index[index] for index in range(len(asked))]
    return {name: Share.of(answer for one in kept for answer in _listed(one[name])) for name in kept[0]}


def judged(seen: Any, asked: Asked) -> dict[str, Any]:
    """Answers on one picture; "colour" and "kind" each ask for any object that has it."""
    wanted = asked.wanted
    assert wanted.place is not None
    there = place_right(seen, wanted.place)
    if len(wanted.objects) > 1:
        verdict = verify(seen, wanted)
        return {"present": verdict.all_present, "objects": list(verdict.objects), "place": there}
    (item,) = wanted.objects
    both = one_object_right(seen, item.kind, item.colour)
    return {
        "colour": one_object_right(seen, None, item.colour),
        "kind": one_object_right(seen, item.kind, None),
        "kind_and_colour": both,
        "place": there,
        "everything": both and there,
    }


def _listed(answer: Any) -> list[bool]:
    return answer if isinstance(answer, list) else [answer]


def measure_prompts(
    paint: Paint, name: str, key: str, n: int, judge_folder: Path, cache: Path
) -> dict[str, dict[str, Share]]:
    """One- and two-object prompts, seen and held out apart.

    Args:
        name, key: of the painter and its weights; answers lie in `cache` under both.
        n: prompts of each of the four parts.
    Returns:
        Shares by part ("one_object/seen", ...), then by name.
    """
    from pipelines.storybook.detector import StorybookJudge

    judge = StorybookJudge.from_pretrained(judge_folder).eval()
    key += "_" + weights_key(judge_folder)[:6]
    table = {}
    for kind, prompts in (("one_object", one_object_prompts), ("two_objects", two_object_prompts)):
        for part, held_out in (("seen", False), ("held_out", True)):
            answers = Answers(cache / f"{name}_{key}_{kind}_{part}.jsonl")
            asked = list(prompts(n, held_out))
            table[f"{kind}/{part}"] = judge_pictures(paint, judge, asked, answers)
    return table


def evaluation_parser(module: str, description: str | None, folder: Path) -> argparse.ArgumentParser:
    """The options that every evaluation of painted pictures shares."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--folder", type=Path, default=folder, help="model folder")
    parser.add_argument("--judge", type=Path, default=WEIGHTS / "storybook-judge")
    parser.add_argument("--n", type=int, default=200, help="prompts of each part")
    parser.add_argument("--cache", type=Path, default=CACHE, help="answers are kept here; it resumes")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def report(table: dict[str, dict[str, Share]], out: Path | None) -> None:
    """Print every share with its confidence interval, and write them all to `out`."""
    for part, shares in table.items():
        for name, share in shares.items():
            low, high = share.interval
            print(f"{part:22} {name:16} {share.value:6.1%}  n={share.n}  95 % [{low:.1%}, {high:.1%}]")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        figures = {
            part: {k: share.as_dict() for k, share in shares.items()} for part, shares in table.items()
        }
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
