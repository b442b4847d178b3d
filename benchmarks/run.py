"""Measure this machine: `python -m benchmarks.run CASE...`; rows are printed as JSON, one per line."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CASES = {
    "windows": "own window + 1,536 shared keys at 16,384 tokens: local, gathered, dense; and the box",
    "forms": "the same at 4,096 tokens, with masked and flex attention",
    "orders": "what the token order buys",
    "accuracy": "back ends against the reference on odd grids",
    "steps": "one denoising step at 1024 and 2048 px, stock FLUX against ours",
    "pictures": "whole pictures through the shell interface: seconds and peak memory",
    "gpu": "the op on a CUDA device, against dense flash attention",
}
DEFAULT = ("windows", "forms", "orders", "accuracy", "steps", "gpu")
Rows = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    listed = "\n".join(f"  {name:10} {says}" for name, says in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=f"{__doc__}\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--dtype", action="append", choices=("float32", "bfloat16"), help="default: both")
    parser.add_argument("--size", action="append", help="of steps (side in px) or pictures (WxH); repeatable")
    parser.add_argument("--rounds", type=int, default=5, help="repeats of each variant; default 5")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--out", type=Path, help="write facts and rows as JSON")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.cases if name not in CASES]
    if unknown or options.rounds < 1:
        parser.error(
            f"no case {unknown[0]!r}" if unknown else f"rounds must be at least 1, got {options.rounds}"
        )
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    import torch

    from benchmarks.machine import facts
    from benchmarks.proof import NotProven

    if options.threads:
        torch.set_num_threads(options.threads)
    found = facts()
    print(json.dumps(found))
    dtypes = [getattr(torch, name) for name in options.dtype or ("float32", "bfloat16")]
    rows: Rows = []
    red = False
    for case in options.cases or DEFAULT:
        for measure in _measures(case, dtypes, options):
            try:
                new = [{"case": case} | row for row in measure()]
            except NotProven as refusal:
                red = True
                new = [{"case": case, "refused": str(refusal)}]
            for row in new:
                print(json.dumps(row), flush=True)
            rows += new
    if options.out:
        options.out.write_text(json.dumps({"facts": found, "rows": rows}, indent=2) + "\n")
    return int(red)


def _measures(case: str, dtypes: list[Any], options: argparse.Namespace) -> list[Callable[[], Rows]]:
    """The calls of a case; each is one interleaved run, and ratios hold within it."""
    rounds = options.rounds
    if case == "steps":
        from benchmarks.steps import step_table

        sides = [int(size) for size in options.size or ("1024", "2048")]
        return [partial(step_table, s, d, rounds) for s in sides for d in dtypes]
    if case == "pictures":
        from benchmarks.pictures import picture_rows

        return [partial(picture_rows, s) for s in options.size or ("1024x1024", "4096x4096")]
    if case == "gpu":
        from benchmarks.gpu import gpu_table

        return [partial(gpu_table, rounds)]
    from benchmarks import attention

    if case == "accuracy":
        return [attention.accuracy_table]
    if case == "orders":
        return [partial(attention.order_table, 64, d, rounds) for d in dtypes]
    side, all_forms = (64, True) if case == "forms" else (128, False)
    return [partial(attention.window_table, side, d, rounds, all_forms=all_forms) for d in dtypes]


if __name__ == "__main__":
    raise SystemExit(main())
