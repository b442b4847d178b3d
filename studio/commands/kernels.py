"""`kernels selftest`: a short proof that the attention back ends are right here, and how fast they are."""

from __future__ import annotations

import argparse

from studio.commands.console import print_json, progress
from studio.crafts.selftests import DtypeFacts, run_selftest
from studio.doors import kernels


def selftest(arguments: argparse.Namespace) -> int:
    """Print what every back end did: 0 when those that are taken are exact, 1 when one is wrong."""
    with progress(6.0) as news:
        tested = run_selftest(kernels.PipelineTester(), news)
    if arguments.json:
        print_json({**tested.result, "is_sound": tested.is_sound, "seconds": tested.seconds})
    else:
        print(f"device {tested.device}")
        for facts in tested.dtypes:
            _print(facts)
    return 0 if tested.is_sound else 1


def _print(facts: DtypeFacts) -> None:
    print(facts.dtype)
    for found in facts.backends:
        mark = "*" if found.is_chosen else " "
        if found.relative_error is None or found.duration_ms is None:
            print(f" {mark} {found.name:10} {found.status:8} {found.reason}")
        else:
            print(
                f" {mark} {found.name:10} {found.status:8} error {found.relative_error:.1e}  "
                f"{found.duration_ms:.1f} ms  {found.reason}"
            )
    speed = facts.speed
    if speed.refusal:
        print(f"   not timed: {speed.refusal}")
    else:
        ratio = speed.dense_ms / speed.local_ms
        print(
            f"   {speed.tokens} tokens: local {speed.local_ms:.0f} ms, dense {speed.dense_ms:.0f} ms "
            f"({ratio:.1f} times as fast)"
        )
