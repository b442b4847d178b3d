"""Spatial scores of a model: `python -m pipelines.compass.evaluate --folder assets/weights/storybook-flux`.

Paints two-object prompts with several seeds, keeps what each detector sees in a file (a second run goes on
where the first one stopped), and prints OA, VISOR, GenEval position and T2I-CompBench for every variant.
Pictures are chosen by one detector (the eyes) and reported by another (the judge). Prompts are those of the
Storybook world, or those of a file; detectors are Storybook's, or zero-shot ones of transformers.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.compass.arms import Arm, Part, run_part, usual_guidance
from pipelines.compass.checks import agreement, agreement_lines, write_checks
from pipelines.compass.evaluation import LookOptions, fingerprint, scores, search_scores, verdicts
from pipelines.compass.picture_sheets import comparison_grid
from pipelines.compass.spatial_prompts import SpatialPrompt, read_prompts, spatial_prompts

WEIGHTS = Path("assets/weights")
PARTS = ("seen", "held_out")
BUDGETS = (1, 2, 4, 8)
COLUMNS = (
    "variant", "part", "OA", "conditional", "unconditional", "VISOR_1", "VISOR_2", "VISOR_3", "VISOR_4",
    "geneval", "t2i_spatial", "seconds_per_picture", "detector",
)  # fmt: skip
BUDGET_COLUMNS = ("budget", "success", "found", "possible", "independent", "beta_binomial")


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> Iterator[str]:
    """Lines of a Markdown table, one row for each variant."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(str(row.get(column, "")) for column in columns) + " |"


def budget_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table: what the verify loop would give with each budget."""
    flat = [{**row, **found} for row in rows for found in row["search"]]
    return table(flat, ("variant", "part", *BUDGET_COLUMNS))


def open_detectors(options: argparse.Namespace) -> tuple[Any, Any]:
    """The one that chooses and the one that reports; the same one where both folders are the same.

    Raises:
        ValueError: a folder without a detector.
    """
    from pipelines.compass.detectors import open_detector
    from pipelines.runtime import choose_runtime

    device = choose_runtime().device
    eyes = open_detector(options.eyes, device=device)
    if options.judge.resolve() == options.eyes.resolve():
        return eyes, eyes
    report = open_detector(options.judge, device=device)
    if report.name == eyes.name:  # folders of the same name; what each sees is kept apart
        report.name = f"{report.name} ({options.judge})"
    return eyes, report


def prompts_by_part(options: argparse.Namespace, detectors: Sequence[Any]) -> dict[str, list[SpatialPrompt]]:
    """The prompts of each part: both sides of the held-out split, or those of a file.

    Raises:
        ValueError: a file without prompts, or with things that a detector doesn't know.
    """
    if options.prompts is None:
        return {
            part: spatial_prompts(options.n or 200, held_out=part == "held_out") for part in options.parts
        }
    prompts = read_prompts(options.prompts)[: options.n]
    for detector in detectors:
        unknown = {name for prompt in prompts for name in prompt.asked if not detector.knows(name)}
        if unknown:
            listed = ", ".join(sorted(unknown)[:5])
            raise ValueError(
                f"{detector.name} can't look for {listed}: give detectors that know {options.prompts}"
            )
    return {options.prompts.stem: prompts}


def evaluate_part(part: Part, eyes: str, report: str, seeds: int) -> dict[str, Any]:
    """The figures of one variant on one list of prompts; `eyes` chooses, `report` reports."""
    per_prompt = min(4, seeds)
    return {
        "variant": part.arm.name,
        "part": part.name,
        **scores(part.prompts, part.seen, report, per_prompt),
        "by_eyes": scores(part.prompts, part.seen, eyes, per_prompt),
        "search": search_scores(part.prompts, part.seen, eyes, report, BUDGETS),
    }


class GridRows:
    """Rows of the picture grid, filled one variant after the other.

    Args:
        count: prompts, evenly spread over the list; of each the first picture.
    """

    def __init__(self, count: int) -> None:
        self.count, self.columns = count, list[str]()
        self.rows: dict[int, tuple[str, list[tuple[Any, bool]]]] = {}

    def add(self, part: Part, report: str) -> None:
        first = [item for item in part.seen if item.seed == 0]
        self.columns.append(part.arm.name)
        for number in range(min(self.count, len(first))):
            item = first[number * len(first) // min(self.count, len(first))]
            prompt = part.prompts[item.prompt]
            is_right = verdicts(prompt, [item], report)[0].passed
            _, pictures = self.rows.setdefault(item.prompt, (prompt.text, []))
            pictures.append((part.picture(item), is_right))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        comparison_grid(self.columns, list(self.rows.values())).save(path)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compass.evaluate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "storybook-flux", help="model folder")
    parser.add_argument(
        "--variant",
        action="append",
        metavar="NAME=WEIGHTS",
        help="CoMPaSS weights: a folder, 'auto' (those of the model folder) or 'none'; may be repeated",
    )
    parser.add_argument("--n", type=int, help="prompts of each part; default: 200, or all of the file")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="prompts of this file: one per line (also T2I-CompBench's), VISOR's or GenEval's JSON",
    )
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each prompt; 8 for all budgets")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="sides of the held-out split"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="default: what the model paints best with")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--eyes",
        type=Path,
        default=WEIGHTS / "storybook-eyes",
        help="detector that chooses: Storybook's or a zero-shot one",
    )
    parser.add_argument(
        "--judge", type=Path, default=WEIGHTS / "storybook-judge", help="detector that reports"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/compass"), help="what was seen so far")
    parser.add_argument("--pictures", type=Path, help="keep the pictures too")
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="FILE",
        help="write the variants side by side; the part is added to the name",
    )
    parser.add_argument("--grid-rows", type=int, default=6, help="prompts of the grid")
    parser.add_argument(
        "--check",
        type=int,
        default=0,
        metavar="N",
        help="write pages of N pictures with both detectors' boxes and verdicts, and a list to fill in",
    )
    parser.add_argument("--check-folder", type=Path, default=Path("runs/checks"))
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All variants on all parts, one after the other; writes the sheets that were asked for."""
    guidance = usual_guidance(options.folder) if options.guidance is None else options.guidance
    eyes, report = open_detectors(options)
    detectors = {detector.name: detector for detector in (eyes, report)}
    parts = prompts_by_part(options, tuple(detectors.values()))
    marks = [fingerprint(options.eyes), fingerprint(options.judge)]
    grids = {name: GridRows(options.grid_rows) for name in parts} if options.grid else {}
    rows = []
    for variant in options.variant or ["plain=none"]:
        label, _, weights = variant.partition("=")
        compass = None if weights in ("", "none") else weights
        arm = Arm(label, options.folder, compass, options.steps, guidance)
        for name, prompts in parts.items():
            looking = LookOptions(
                options.seeds,
                options.batch,
                options.pictures / f"{label}_{name}" if options.pictures else None,
                partial(_tell, f"{label} {name}"),
            )
            # a list of the held-out split begins with every shorter one, a file's may change
            texts = [prompt.text for prompt in prompts] if options.prompts else []
            part = run_part(
                arm, name, prompts, tuple(detectors.values()), options.cache, looking, [*marks, *texts]
            )
            rows.append(evaluate_part(part, eyes.name, report.name, options.seeds))
            if grids:
                grids[name].add(part, report.name)
            if options.check:
                path = write_checks(part, list(detectors), options.check, options.check_folder)
                print("\n".join([f"{path}:", *agreement_lines(agreement(path))]))
    for name, grid in grids.items():
        grid.save(options.grid.with_stem(f"{options.grid.stem}_{name}"))
    return rows


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what}: {done} of {total} painted", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    rows = run(options)
    print("\n".join([*table(rows), "", *budget_table(rows)]))
    if options.out:
        part = options.out.with_name(options.out.name + ".part")
        part.write_text(json.dumps(rows, indent=2) + "\n")
        os.replace(part, options.out)


if __name__ == "__main__":
    main()
