"""Detectors checked by eye: `python -m pipelines.compass.checks runs/checks/plain_held_out.tsv`.

`pipelines.compass.evaluate --check 100` writes pages of pictures with the boxes and verdicts of both
detectors, and a list of them. Somebody looks at the pages and puts "yes" or "no" into the list's last column;
this command counts who agrees with whom.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.compass.arms import Part
from pipelines.compass.evaluation import Seen
from pipelines.compass.judging import Verdict, judge
from pipelines.compass.picture_sheets import check_cell, page_of

PER_PAGE = 20
PERSON = "person"
ANSWERS = {"yes": True, "no": False}


def write_checks(part: Part, detectors: Sequence[str], count: int, folder: Path) -> Path:
    """Pages and list for `count` of a part's pictures, evenly spread over it, nothing picked.

    Args:
        detectors: names of those to compare, in the order of their colours.
    Returns:
        The list: `<arm>_<part>.tsv`; the pages lie beside it.
    Raises:
        ValueError: no picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{part.arm.name}_{part.name}"
    names = list(dict.fromkeys(detectors))
    rows: list[dict[str, str]] = []
    cells = []
    for number, item in enumerate(_spread(part.seen, count), start=1):
        prompt = part.prompts[item.prompt]
        verdicts = {name: judge(prompt.reading, item.found[name], item.size) for name in names}
        cells.append(check_cell(number, part.picture(item), prompt.reading, verdicts))
        rows.append(_row(number, prompt.text, item.seed, verdicts))
    for page, start in enumerate(range(0, len(cells), PER_PAGE), start=1):
        page_of(cells[start : start + PER_PAGE]).save(folder / f"{stem}_{page}.png")
    path = folder / f"{stem}.tsv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]) if rows else [PERSON], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _spread(items: Sequence[Seen], count: int) -> list[Seen]:
    if not items or count < 1:
        raise ValueError(f"{count} of {len(items)} pictures were asked for; there must be at least 1")
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _row(number: int, prompt: str, seed: int, verdicts: Mapping[str, Verdict]) -> dict[str, str]:
    said = {name: "yes" if verdict.passed else "no" for name, verdict in verdicts.items()}
    return {"number": str(number), "prompt": prompt, "seed": str(seed), **said, PERSON: ""}


def agreement(path: Path) -> dict[str, tuple[int, int]]:
    """(agreements, rows compared) of every two columns of answers; rows without an answer don't count.

    Raises:
        ValueError: no such list, or an answer that is neither "yes", "no" nor empty.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read ({error})") from None
    columns = [name for name in (rows[0] if rows else ()) if name not in ("number", "prompt", "seed")]
    if PERSON not in columns or len(columns) < 2:
        raise ValueError(
            f"{path} is no list of checks: it needs columns of answers, and one called {PERSON!r}"
        )
    for row in rows:
        for name in columns:
            if (row[name] or "").strip().lower() not in (*ANSWERS, ""):
                raise ValueError(
                    f"row {row['number']} of {path} says {row[name]!r}; allowed are yes, no, nothing"
                )
    counts: dict[str, tuple[int, int]] = {}
    for index, first in enumerate(columns):
        for second in columns[index + 1 :]:
            pairs = [tuple((row[name] or "").strip().lower() for name in (first, second)) for row in rows]
            answered = [a == b for a, b in pairs if a and b]
            counts[f"{first} and {second}"] = (sum(answered), len(answered))
    return counts


def agreement_lines(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """ "eyes and judge agree on 93 of 100"; pairs without a common answer are left out."""
    return [f"{pair} agree on {same} of {rows}" for pair, (same, rows) in counts.items() if rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compass.checks", description=__doc__)
    parser.add_argument("lists", nargs="+", type=Path, help="lists that `--check` wrote")
    for path in parser.parse_args(arguments).lists:
        print("\n".join([f"{path}:", *agreement_lines(agreement(path))]))


if __name__ == "__main__":
    main()
