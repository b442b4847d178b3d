"""The whole table of the embedded models: `python -m pipelines.storybook.evaluate [--n 50]`.

Each row is a module of its own, run with the same `--n`; what it has measured of these very weights is not
measured again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
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
        module: evaluates it; writes {part: {name: {value, n, ci95}}} to `--out`.
        options: further words of its command line.
        paints: it paints pictures, and keeps the judge's answers in the cache.
    """

    model: str
    module: str
    options: tuple[str, ...] = ()
    paints: bool = False


ROWS = (
    Row("storybook-eyes", "pipelines.storybook.evaluate_parts", ("eyes",)),
    Row("storybook-judge", "pipelines.storybook.evaluate_parts", ("judge",)),
    Row("storybook-vae", "pipelines.storybook.evaluate_parts", ("vae",)),
    Row("storybook-clip", "pipelines.storybook.evaluate_parts", ("clip",)),
    Row("storybook-flux", "pipelines.scale_dit.evaluate", paints=True),
    Row("storybook-flux/fast-lora", "pipelines.scale_dit.evaluate_fast", paints=True),
    Row("storybook-sd", "pipelines.storybook.evaluate_sd", paints=True),
)


def figures(row: Row, n: int, cache: Path) -> dict[str, dict[str, Any]]:
    """What the row's module measures, from the cache when its weights and `n` are the same.

    Raises:
        subprocess.CalledProcessError: the module failed; its message is on stderr.
    """
    folders = [WEIGHTS / row.model, *(WEIGHTS / name for name in NEEDED)]
    name = row.model.replace("/", "_")
    out = cache / f"{name}_{weights_key(*folders, extra=str(row.options))}_{n}.json"
    if not out.exists():
        words = [*row.options, "--n", str(n), "--out", str(out)]
        words += ["--cache", str(cache)] if row.paints else []
        command = [sys.executable, "-m", row.module, *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))


def lines(model: str, table: dict[str, dict[str, Any]]) -> list[str]:
    """One line per figure: a share with n and confidence interval, or a mean with its n."""
    out = []
    for part, shares in table.items():
        for name, figure in shares.items():
            head = f"{model:24} {part:22} {name:18}"
            if "ci95" in figure:
                low, high = figure["ci95"]
                out.append(f"{head} {figure['value']:7.1%}  n={figure['n']:<5} 95 % [{low:.1%}, {high:.1%}]")
            else:
                out.append(f"{head} {figure['value']:7.2f} {figure.get('unit', '')}  n={figure['n']}")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.storybook.evaluate", description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="samples of each part of a row")
    parser.add_argument("--only", nargs="*", help="models to measure; default: all")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args(arguments)
    failed = 0
    for row in ROWS:
        if options.only and row.model not in options.only:
            continue
        if not (WEIGHTS / row.model).is_dir():
            print(f"{row.model:24} is not among the weights", flush=True)
            continue
        try:
            print("\n".join(lines(row.model, figures(row, options.n, options.cache))), flush=True)
        except subprocess.CalledProcessError as error:
            print(f"{row.model:24} could not be measured: exit code {error.returncode}", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
