"""Hilbert's curve and the generalised curve: every cell once, unit steps, windows in one run."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels.hilbert.curve import generalised_order, hilbert_index, hilbert_order


def steps(order, cols):
    row, col = order // cols, order % cols
    return row.diff().abs() + col.diff().abs()


def is_permutation(order):
    return torch.equal(order.sort().values, torch.arange(order.numel()))


def test_two_by_two_and_four_by_four_by_hand():
    assert hilbert_order(2, 2).tolist() == [0, 1, 3, 2]
    assert hilbert_order(4, 4).tolist() == [0, 4, 5, 1, 2, 3, 7, 6, 10, 11, 15, 14, 13, 9, 8, 12]


@pytest.mark.parametrize("side", [1, 2, 8, 32, 64])
def test_square_curve_takes_unit_steps(side):
    order = hilbert_order(side, side)
    assert is_permutation(order)
    assert (steps(order, side) == 1).all()


@pytest.mark.parametrize("window", [2, 4, 8, 16])
def test_square_curve_visits_aligned_squares_in_one_run(window):
    side = 64
    order = hilbert_order(side, side)
    squares = (order // side // window) * (side // window) + order % side // window
    runs = squares.view(-1, window * window)
    assert (runs == runs[:, :1]).all()


def test_embedded_rectangle_drops_cells_and_jumps():
    order = hilbert_order(6, 6)
    assert is_permutation(order)
    jumps = steps(order, 6)
    assert int((jumps != 1).sum()) == 2 and int(jumps.max()) == 3


@given(rows=st.integers(1, 60), cols=st.integers(1, 60))
def test_generalised_curve_on_any_rectangle(rows, cols):
    order = generalised_order(rows, cols)
    assert is_permutation(order)
    assert order[0] == 0
    moves = steps(order, cols)
    odd = moves[moves != 1]
    may_jump = max(rows, cols) % 2 == 1 and min(rows, cols) % 2 == 0
    assert odd.numel() == 0 or (may_jump and odd.tolist() == [2])


@pytest.mark.parametrize(
    ("grid", "diagonals"),
    [((97, 62), 1), ((135, 134), 1), ((255, 144), 1), ((135, 240), 0), ((63, 97), 0), ((240, 135), 0)],
)
def test_diagonal_steps_of_known_grids(grid, diagonals):
    assert int((steps(generalised_order(*grid), grid[1]) != 1).sum()) == diagonals


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="power of two, got 6"):
        hilbert_index(torch.tensor([0]), torch.tensor([0]), 6)
    with pytest.raises(ValueError, match="0 x 4"):
        generalised_order(0, 4)
