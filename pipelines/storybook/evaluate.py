"""The whole table of the embedded models: `python -m pipelines.storybook.evaluate [--n 50]`.

Each row is a module of its own, run with the same `--n` (or its own most, where a sample takes minutes); what
it has measured of these very weights is not measured again. The cache keeps every figure as JSON, the table
shows those that the models are judged by.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.storybook.judging import CACHE, WEIGHTS, weights_key

NEEDED = ("storybook-flux", "storybook-judge")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        model: folder under assets/weights, or a part of one; a model that is not there is named as missing.
        module: evaluates it; writes its figures to `--out` (see `leaves`).
        options: further words of its command line.
        paints: it paints pictures, and keeps the judge's answers in the cache.
        label: name of the row, where the model has several. Default: that of the model.
        most: largest `--n`. Default: any.
        shows: figures that are printed. Default: all.
        needs: further folders under assets/weights that the figures depend on.
    """

    model: str
    module: str
    options: tuple[str, ...] = ()
    paints: bool = False
    label: str = ""
    most: int | None = None
    shows: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.label or self.model


DETAIL: dict[str, Any] = {
    "module": "pipelines.scale_dit.evaluate_detail",
    "most": 6,  # minutes a picture
    "shows": ("spectrum", "texture", "seams"),
    "needs": ("storybook-eyes", "storybook-texture"),
}
SPATIAL: dict[str, Any] = {
    "module": "pipelines.compass.evaluate",
    "paints": True,
    "shows": ("OA", "conditional", "unconditional"),
    "needs": ("storybook-eyes",),
}
COMPARED = ("--variant", "plain=none", "--variant", "compass=auto")
ROWS = (
    Row("storybook-eyes", "pipelines.storybook.evaluate_parts", ("eyes",)),
    Row("storybook-judge", "pipelines.storybook.evaluate_parts", ("judge",)),
    Row("storybook-sd/vae", "pipelines.storybook.evaluate_parts", ("vae",)),
    Row("storybook-clip", "pipelines.storybook.evaluate_parts", ("clip",)),
    Row("storybook-flux", "pipelines.scale_dit.evaluate", paints=True),
    Row("storybook-flux/fast-lora", "pipelines.scale_dit.evaluate_fast", paints=True),
    Row("storybook-flux", label="storybook-flux/detail", **DETAIL),
    Row("storybook-flux/scale-dit-lora", options=("--adapter",), **DETAIL),
    Row("storybook-flux/compass-lora", options=COMPARED, **SPATIAL),
    Row("storybook-sd", "pipelines.storybook.evaluate_sd", paints=True),
    Row(
        "storybook-sd/compass",
        options=("--folder", str(WEIGHTS / "storybook-sd"), *COMPARED),
        **SPATIAL,
    ),
    Row("storybook-sd/longalign", "pipelines.longalign.evaluate", paints=True, shows=("all", "diversity")),
    Row(
        "storybook-flextok",
        "pipelines.flextok.evaluate",
        ("--clip", str(WEIGHTS / "storybook-clip")),
        paints=True,
        shows=("right_with_all", "fewest_with_90", "psnr_grows", "kind_and_colour"),
        needs=("storybook-clip", "storybook-sd/vae"),
    ),
    Row(
        "storybook-video",
        "pipelines.vidrd.evaluate",
        ("films",),
        paints=True,
        most=50,  # 4 systems x 4 clips x 8 frames, seen and held out
        shows=("identity", "direction", "border_ratio"),
    ),
)


def figures(row: Row, n: int, cache: Path) -> Any:
    """What the row's module measures, from the cache when its weights and `n` are the same.

    Raises:
        subprocess.CalledProcessError: the module failed; its message is on stderr.
    """
    n = min(n, row.most or n)
    # an adapter's figures depend on the model it lies in
    names = dict.fromkeys((row.model, row.model.split("/")[0], *NEEDED, *row.needs))
    folders = [WEIGHTS / name for name in names]
    name = row.name.replace("/", "_")
    out = cache / f"{name}_{weights_key(*folders, extra=str(row.options))}_{n}.json"
    if not out.exists():
        cache.mkdir(parents=True, exist_ok=True)
        words = [*row.options, "--n", str(n), "--out", str(out)]
        words += ["--cache", str(cache)] if row.paints else []
        command = [sys.executable, "-m", row.module, *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))


def leaves(table: Any, part: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(part, name, figure) of a module's figures, whatever their nesting.

    Args:
        table: a figure is {"value", and perhaps "n", "unit", "ci95"} or a bare number. Around figures there
            may be any number of tables, and lists whose items say by "variant" and "part" what they are of.
    """
    if isinstance(table, list):
        table = {f"{item['variant']}/{item['part']}": item for item in table if "variant" in item}
    for name, value in table.items():
        if isinstance(value, Mapping) and "value" in value:
            yield part, name, dict(value)
        elif isinstance(value, Mapping | list):
            yield from leaves(value, f"{part}/{name}".lstrip("/"))
        elif isinstance(value, int | float):
            yield part, name, {"value": value}


def lines(row: Row, table: Any) -> list[str]:
    """One line per figure: a share or a mean in its unit, with n and interval where it has them."""
    out = []
    for part, name, figure in leaves(table):
        if row.shows and name not in row.shows:
            continue
        is_share = "ci95" in figure and "unit" not in figure
        form = ".1%" if is_share else ".2f"
        unit = "" if is_share else f" {figure.get('unit', '')}"
        line = f"{row.name:30} {part:26} {name:18} {format(figure['value'], form):>7}{unit}"
        line += f"  n={figure['n']:<5}" if "n" in figure else ""
        if "ci95" in figure:
            low, high = (format(end, form) for end in figure["ci95"])
            line += f" 95 % [{low}, {high}]"
        out.append(line.rstrip())
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.storybook.evaluate", description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="samples of each part of a row")
    parser.add_argument("--only", nargs="*", help="names of rows to measure; default: all")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args(arguments)
    failed = 0
    for row in ROWS:
        if options.only and row.name not in options.only:
            continue
        if not (WEIGHTS / row.model).is_dir():
            print(f"{row.name:30} is not among the weights", flush=True)
            continue
        try:
            print("\n".join(lines(row, figures(row, options.n, options.cache))), flush=True)
        except subprocess.CalledProcessError as error:
            print(f"{row.name:30} could not be measured: exit code {error.returncode}", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
