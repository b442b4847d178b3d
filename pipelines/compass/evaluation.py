"""Spatial scores of a painter: what detectors see in its pictures, kept in a file, and what it comes to."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.compass.judging import Verdict, judge
from pipelines.compass.prompt_text import phrase_of
from pipelines.compass.relations import PLAIN
from pipelines.compass.scoring import (
    Detected,
    geneval_objects,
    geneval_position,
    t2i_spatial,
    visor,
    visor_image,
)
from pipelines.compass.search import (
    beta_binomial_success,
    fit_beta_binomial,
    independent_success,
    success_curve,
)
from pipelines.compass.spatial_prompts import SpatialPrompt
from pipelines.weights import sha256_of

_LARGE = 256 << 20  # bytes from which a file is known by its size and time instead of its content

PaintMany = Callable[[Sequence[str], Sequence[int]], Sequence[Any]]


@dataclass(frozen=True)
class Seen:
    """One picture: prompt and seed by number, its size, seconds of painting, what each detector found."""

    prompt: int
    seed: int
    size: tuple[int, int]
    seconds: float
    found: dict[str, tuple[Detected, ...]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Seen":
        value = json.loads(line)
        found = {
            name: tuple(Detected(item["label"], item["score"], tuple(item["box"])) for item in items)
            for name, items in value["found"].items()
        }
        return cls(value["prompt"], value["seed"], tuple(value["size"]), value["seconds"], found)


def fingerprint(folder: Path) -> str:
    """A name for the weights in a folder that changes when they do."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".json"):
            stat = path.stat()
            known = sha256_of(path) if stat.st_size < _LARGE else f"{stat.st_size} {stat.st_mtime_ns}"
            digest.update(f"{path.relative_to(folder)} {known}\n".encode())
    return digest.hexdigest()[:16]


class SeenFile:
    """What has been painted and looked at, one line each; the last line may be cut off by a kill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[tuple[int, int], Seen] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                item = Seen.from_json(line)
            except (ValueError, KeyError, TypeError):
                continue
            self.seen[item.prompt, item.seed] = item
        part = path.with_suffix(".part")
        part.write_text("".join(item.to_json() + "\n" for item in self.seen.values()), encoding="utf-8")
        os.replace(part, path)

    def add(self, items: Sequence[Seen]) -> None:
        with self.path.open("a", encoding="utf-8") as out:
            for item in items:
                self.seen[item.prompt, item.seed] = item
                out.write(item.to_json() + "\n")


@dataclass(frozen=True)
class LookOptions:
    """How `look` works.

    Attributes:
        seeds: pictures of each prompt. batch: pictures painted at once.
        pictures: folder that keeps the pictures, or None.
        on_done: told (pictures done, pictures to do).
    """

    seeds: int = 4
    batch: int = 16
    pictures: Path | None = None
    on_done: Callable[[int, int], None] | None = None


def paint_seed(prompt: int, seed: int) -> int:
    """A seed of its own for every picture: the same number would repeat a layout over all prompts."""
    return 1000 * seed + prompt


def look(
    prompts: Sequence[SpatialPrompt],
    paint: PaintMany,
    detectors: Sequence[Any],
    file: SeenFile,
    options: LookOptions,
) -> list[Seen]:
    """Paint and look at whatever the file doesn't hold yet.

    Args:
        paint: `(texts, seeds) -> pictures`, one for each pair.
        detectors: of `detectors.ObjectDetector`.
    """
    wanted = [(number, seed) for number in range(len(prompts)) for seed in range(options.seeds)]
    missing = [key for key in wanted if key not in file.seen]
    for start in range(0, len(missing), options.batch):
        keys = missing[start : start + options.batch]
        began = time.monotonic()
        painted = paint([prompts[n].text for n, _ in keys], [paint_seed(*key) for key in keys])
        seconds = round((time.monotonic() - began) / len(keys), 3)
        names = [prompts[number].asked for number, _ in keys]
        found = {detector.name: _look_at(detector, painted, names) for detector in detectors}
        for row, (number, seed) in enumerate(keys):
            seen = {name: tuple(rows[row]) for name, rows in found.items()}
            file.add([Seen(number, seed, painted[row].size, seconds, seen)])
            if options.pictures is not None:
                options.pictures.mkdir(parents=True, exist_ok=True)
                painted[row].save(options.pictures / f"{number:04d}_{seed}.png")
        if options.on_done is not None:
            options.on_done(start + len(keys), len(missing))
    return [file.seen[key] for key in wanted]


def _look_at(detector: Any, painted: Sequence[Any], names: Sequence[Sequence[str]]) -> list[list[Detected]]:
    if hasattr(detector, "look"):  # several pictures at once
        return detector.look(painted, names)
    return [detector(picture, wanted) for picture, wanted in zip(painted, names, strict=True)]


def scores(
    prompts: Sequence[SpatialPrompt], seen: Sequence[Seen], detector: str, per_prompt: int = 4
) -> dict[str, Any]:
    """All benchmark scores by one detector, on the first `per_prompt` seeds.

    Returns:
        Percentages, beside the detector's name; "t2i_spatial" lies between 0 and 1. VISOR and GenEval know
        plain relations only: prompts with "next to" count in "t2i_spatial" alone.
    """
    kept = [item for item in seen if item.seed < per_prompt]
    images, geneval, t2i = [], [], []
    for item in kept:
        prompt, found = prompts[item.prompt], item.found[detector]
        first, second = prompt.names
        t2i.append(t2i_spatial(found, first, phrase_of(prompt.relation, "t2i"), second, item.size))
        if prompt.relation not in PLAIN:
            continue
        images.append(visor_image(item.prompt, found, first, prompt.relation, second))
        include: list[dict[str, Any]] = [
            {"class": second},
            {"class": first, "position": (prompt.relation, 0)},
        ]
        geneval.append(geneval_position(geneval_objects(found), include)[0])
    row: dict[str, Any] = {
        "detector": detector,
        "prompts": len({item.prompt for item in kept}),
        "images": len(kept),
        "t2i_spatial": round(sum(t2i) / len(t2i), 4),
        "seconds_per_picture": round(sum(item.seconds for item in kept) / len(kept), 3),
    }
    if images:
        result = visor(images, per_prompt)
        row |= {
            "OA": round(result.both, 2),
            "conditional": round(result.conditional, 2),
            "unconditional": round(result.unconditional, 2),
            **{f"VISOR_{n}": round(value, 2) for n, value in enumerate(result.at_least, 1)},
            "geneval": round(100 * sum(geneval) / len(geneval), 2),
        }
    return row


def verdicts(prompt: SpatialPrompt, items: Sequence[Seen], detector: str) -> list[Verdict]:
    """GenEval verdicts of the pictures of one prompt."""
    return [judge(prompt.reading, item.found[detector], item.size) for item in items]


def search_scores(
    prompts: Sequence[SpatialPrompt], seen: Sequence[Seen], eyes: str, report: str, budgets: Sequence[int]
) -> list[dict[str, float]]:
    """What the verify loop would give: the eyes choose among the first n pictures, the judge decides.

    Returns:
        For each budget: "success" (share of prompts whose chosen picture the judge accepts), "found" (the
        eyes accept one), "possible" (the judge accepts any), and what independence and a beta-binomial
        predict for "possible" from the single pictures.
    """
    chosen: dict[int, list[bool]] = {budget: [] for budget in budgets}
    eyes_passed, judge_passed = [], []
    for number, prompt in enumerate(prompts):
        items = sorted((item for item in seen if item.prompt == number), key=lambda item: item.seed)
        by_eyes, by_judge = verdicts(prompt, items, eyes), verdicts(prompt, items, report)
        eyes_passed.append([verdict.passed for verdict in by_eyes])
        judge_passed.append([verdict.passed for verdict in by_judge])
        for budget in budgets:
            chosen[budget].append(by_judge[_choice(by_eyes[:budget])].passed)
    count, trials = len(prompts), len(judge_passed[0])
    rate = sum(map(sum, judge_passed)) / (count * trials)
    fitted = fit_beta_binomial([sum(row) for row in judge_passed], trials) if trials > 1 else None
    found, possible = success_curve(eyes_passed, budgets), success_curve(judge_passed, budgets)
    rows = []
    for budget in (budget for budget in budgets if budget <= trials):
        row = {
            "budget": budget,
            "success": sum(chosen[budget]) / count,
            "found": found[budget],
            "possible": possible[budget],
            "independent": independent_success(rate, budget),
        }
        if fitted is not None:
            row["beta_binomial"] = beta_binomial_success(*fitted, budget)
        rows.append({name: round(value, 4) for name, value in row.items()})
    return rows


def _choice(by_eyes: Sequence[Verdict]) -> int:
    """The picture the loop would show: the first accepted one, else that of the highest score."""
    for index, verdict in enumerate(by_eyes):
        if verdict.passed:
            return index
    return max(range(len(by_eyes)), key=lambda index: by_eyes[index].score)
