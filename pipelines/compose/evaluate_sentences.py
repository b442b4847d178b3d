"""Does a verdict on each sentence find the object that a picture lacks?

    python -m pipelines.compose.evaluate_sentences --n 200 --out table.json

Held-out drawings with one object taken out, held against the pages of the whole scenes, and the whole
drawings beside them. What is told: of the sentences that name the lost object, how many are marked; of the
others, how many are marked wrongly. Two ways to tell: the eyes (`sentences.judge_sentences`), and a CLIP
score of each sentence that lies below that of a mean picture (`longalign.segment_scores`).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.compose.sentences import judge_sentences
from pipelines.longalign.pages import Page, held_out_pages
from pipelines.storybook.judging import WEIGHTS
from pipelines.storybook.verify import Share

SIDE = 256  # pixels of a drawing


@dataclass(frozen=True)
class Told:
    """One sentence and one picture.

    Attributes:
        page: index of the page. is_whole: whether nothing was taken out of the drawing.
        is_lost: whether the sentence names the object that was. names_object: whether it names any.
        is_marked: whether the verdict is that something may be missing.
        score: higher where the picture shows the sentence; for ranks.
    """

    page: int
    is_whole: bool
    is_lost: bool
    names_object: bool
    is_marked: bool
    score: float


Judged = list[tuple[str, bool, float]]  # sentence, whether it is marked, score


def by_eyes(folder: Path) -> Callable[[Image.Image, str], Judged]:
    """Verdicts of the eyes in a folder."""
    from pipelines.storybook.detector import StorybookEyes

    eyes = StorybookEyes.from_pretrained(folder).eval()

    def judged(picture: Image.Image, text: str) -> Judged:
        told = judge_sentences(eyes, text, picture)
        return [
            (one.text, one.shown is False, 1.0 if one.shown is None else float(one.shown)) for one in told
        ]

    return judged


def by_score(folder: Path) -> Callable[[Image.Image, str], Judged]:
    """CLIP scores by the model in a folder, which holds its reference (`longalign.measure_reference`)."""
    from pipelines.longalign.preference_model import (
        REFERENCE_FILE,
        STORYBOOK_INPUT,
        PreferenceModel,
        Reference,
    )
    from pipelines.longalign.segment_scores import score_segments

    model = PreferenceModel.from_pretrained(folder, STORYBOOK_INPUT)
    reference = Reference.load(folder / REFERENCE_FILE)

    def judged(picture: Image.Image, text: str) -> Judged:
        scores = [(one.text, one.above_average) for one in score_segments(model, picture, text, reference)]
        return [(sentence, score < 0, score) for sentence, score in scores if score is not None]

    return judged


def tell(pages: Sequence[Page], judged: Callable[[Image.Image, str], Judged]) -> Iterator[Told]:
    """Every sentence of every page with the whole drawing and with one that lacks an object.

    Of page i it is object i modulo their number.
    """
    from pipelines.storybook.draw import draw_scene

    for index, page in enumerate(pages):
        objects = page.scene.objects
        lost = index % len(objects)
        names = [f"{item.colour} {item.kind}" for item in objects]
        rest = tuple(item for place, item in enumerate(objects) if place != lost)
        for is_whole in (True, False):
            scene = page.scene if is_whole else replace(page.scene, objects=rest)
            picture = Image.fromarray(draw_scene(scene, SIDE, SIDE))
            for text, is_marked, score in judged(picture, page.text):
                named = [name for name in names if name in text]
                is_lost = not is_whole and names[lost] in named
                yield Told(index, is_whole, is_lost, bool(named), is_marked, score)


def figures(told: Sequence[Told]) -> dict[str, Share]:
    """How often the right sentences are marked.

    Returns:
        "found": sentences about the lost object that are marked. "false_alarms": others beside them that are;
        "false_alarms_whole": any of a whole drawing. "weakest": drawings whose sentence with the lowest score
        is about the lost object, ties counted as misses unless all of them are.
    """
    lacking = [one for one in told if not one.is_whole]
    pages: dict[int, list[Told]] = {}
    for one in lacking:
        pages.setdefault(one.page, []).append(one)
    weakest = []
    for own in pages.values():
        least = min(one.score for one in own)
        weakest.append(all(one.is_lost for one in own if one.score == least))
    return {
        "found": Share.of(one.is_marked for one in lacking if one.is_lost),
        "false_alarms": Share.of(one.is_marked for one in lacking if not one.is_lost),
        "false_alarms_whole": Share.of(one.is_marked for one in told if one.is_whole),
        "weakest": Share.of(weakest),
    }


def ranking(told: Sequence[Told], objects_only: bool) -> float:
    """How often a sentence about the lost object scores below another of a drawing that lacks it, 0.5 to 1.

    The area under the ROC curve, over all pairs of sentences of all drawings.

    Args:
        objects_only: leave out sentences that name no object.
    """
    kept = [one for one in told if not one.is_whole and (one.names_object or not objects_only)]
    lost = [one.score for one in kept if one.is_lost]
    other = [one.score for one in kept if not one.is_lost]
    wins = sum((low < high) + 0.5 * (low == high) for low in lost for high in other)
    return wins / (len(lost) * len(other)) if lost and other else 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compose.evaluate_sentences", description=__doc__
    )
    parser.add_argument("--eyes", type=Path, default=WEIGHTS / "storybook-eyes")
    parser.add_argument("--clip", type=Path, default=WEIGHTS / "storybook-clip")
    parser.add_argument("--n", type=int, default=200, help="held-out pages")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    pages = held_out_pages(options.n)
    table: dict[str, dict[str, Any]] = {}
    for name, judged in (("eyes", by_eyes(options.eyes)), ("clip", by_score(options.clip))):
        told = list(tell(pages, judged))
        shares = figures(told)
        row: dict[str, Any] = {key: share.as_dict() for key, share in shares.items()}
        ranks = {"ranking": ranking(told, False), "ranking_objects": ranking(told, True)}
        table[name] = row | {key: round(value, 4) for key, value in ranks.items()}
        for key, share in shares.items():
            low, high = share.interval
            print(
                f"{name:6} {key:20} {share.value:6.1%}  n={share.n}  95 % [{low:.1%}, {high:.1%}]", flush=True
            )
        for key, value in ranks.items():
            print(f"{name:6} {key:20} {value:6.3f}", flush=True)
    if options.out:
        _write(table, options.out)


def _write(table: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    part.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    os.replace(part, out)


if __name__ == "__main__":
    main()
