"""What has to hold before a speed-up is printed: the op's own tests, and agreement of each measured call."""

import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention
from pipelines.kernels.local_attention.reference import masked_attention

# Relative Frobenius error on normal inputs.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
OP_TESTS = ("tests/kernels/test_attention.py", "-k", "back_ends_equal_the_reference")
_ROOT = Path(__file__).resolve().parent.parent
_ROWS = 24  # queries per place that are computed again in fp64


class NotProven(RuntimeError):
    """The op is wrong, or could not be tested: a ratio of speeds would mean nothing."""


@lru_cache(maxsize=4)
def require_green(tests: tuple[str, ...] = OP_TESTS) -> None:
    """Run tests of this project in a process of their own.

    Raises:
        NotProven: they fail or cannot run; the last line of their output says which.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise NotProven(f"the op's tests are red, so no speed-up is printed: {said[-1] if said else '?'}")


def relative_error(
    tensors: tuple[Tensor, Tensor, Tensor], output: Tensor, layout: AttentionLayout, scale: float
) -> float:
    """Relative error of rows from the start, the middle and the end, against the token mask in fp64.

    Args:
        tensors: query `[B, Q, H, D]`, key, value `[B, S, H, D]`.
        output: `[B, Q, H, D]`, what was computed from them.
    """
    query, key, value = tensors
    count = query.shape[1]
    wrong = whole = 0.0
    for start in sorted({0, layout.text, count // 2, count - _ROWS}):
        rows = slice(max(start, 0), min(max(start, 0) + _ROWS, count))
        exact, _ = masked_attention(
            query[:, rows].double(),
            key.double(),
            value.double(),
            layout.token_mask(rows).to(query.device),
            scale,
        )
        wrong += float((output[:, rows].double() - exact).square().sum())
        whole += float(exact.square().sum())
    return float((wrong / whole) ** 0.5)


def require_agreement(
    tensors: tuple[Tensor, Tensor, Tensor], layout: AttentionLayout, backend: str = "auto"
) -> float:
    """Relative error of one call of the op, when it is small enough.

    Raises:
        NotProven: it is not; the message has both numbers.
    """
    scale = tensors[0].shape[-1] ** -0.5
    output = hierarchical_local_attention(*tensors, layout, backend=backend)
    assert isinstance(output, Tensor)
    error, allowed = relative_error(tensors, output, layout, scale), TOLERANCES[tensors[0].dtype]
    if not error <= allowed:
        raise NotProven(
            f"{backend} differs from the reference by {error:.1e}, allowed {allowed:.0e}: no ratios"
        )
    return error
