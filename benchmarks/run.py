"""Measure this machine: `python -m benchmarks.run [attention|pictures] [--out FILE]`."""

import argparse
import json
import os
import platform
from pathlib import Path

ATTENTION_SIDES = (1024, 2048)
SIZES = ("256x256", "1024x1024", "4096x4096")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("attention", "pictures"), help="default: both")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "load_before": round(load, 1)}
    print(json.dumps(facts))
    rows = []
    if options.what in (None, "attention"):
        from benchmarks.attention import attention_table

        rows += attention_table(ATTENTION_SIDES)
    if options.what in (None, "pictures"):
        from benchmarks.pictures import picture_row

        rows += [picture_row(size) for size in SIZES]
    for row in rows:
        print(json.dumps(row))
    if options.out:
        options.out.write_text(json.dumps({"facts": facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
