"""Token orders against the permutations that the authors' functions gave."""

import re

import pytest
import torch

from pipelines.kernels.hilbert.windows import window_order
from tests.parity.cases import discover

# The authors' second Hilbert function is recorded too; it is no Hilbert curve and nothing here imitates it.
NOT_IMITATED = "hilbert_utils_broken"


def ours(kind, rows, cols, down, across):
    if kind == "window":
        return window_order(rows, cols, down, across)
    if kind == "window_hier":
        return window_order(rows, cols, down, across, "tiles", tile=(max(down // 4, 1), max(across // 4, 1)))
    if kind == "hilbert_notebook":
        return window_order(rows, cols, down, across, "hilbert_embedded")
    raise ValueError(f"an order that no test knows: {kind}")


def parse(name):
    match = re.fullmatch(r"(\w+)\.H(\d+)_W(\d+)_win(\d+)x(\d+)", name)
    assert match, name
    kind, *numbers = match.groups()
    return kind, *map(int, numbers)


@pytest.mark.parametrize("case", discover("scale_dit", "token_orders", "orders"))
def test_token_orders(case):
    record, tensors = case.record("orders"), case.tensors()
    kind, rows, cols, down, across = parse(case.name)
    if kind == NOT_IMITATED:
        assert torch.equal(tensors[case.name].sort().values, torch.arange(rows * cols))
        return
    order = ours(kind, rows, cols, down, across)
    assert torch.equal(order, tensors[case.name])
    row, col = order // cols, order % cols
    steps = row.diff().abs() + col.diff().abs()
    assert int(steps.max()) == record["max_step_L1"]
    assert int((steps != 1).sum()) == record["non_unit_steps"]
    inverse = tensors.get(case.name.replace(f"{kind}.", f"{kind}_inverse."))
    if inverse is not None:
        assert torch.equal(torch.argsort(order), inverse)
