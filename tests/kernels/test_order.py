"""Token orders: permutations with inverses, windows contiguous on every grid, and what locality they buy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels.hilbert.order import ORDER_NAMES, token_order
from pipelines.kernels.hilbert.windows import window_edges, window_ids, window_order
from pipelines.kernels.local_attention.layout import AttentionLayout


def runs(ids):
    """Number of uninterrupted runs of equal ids."""
    return int((ids.diff() != 0).sum()) + 1


@given(
    rows=st.integers(1, 50),
    cols=st.integers(1, 50),
    name=st.sampled_from(ORDER_NAMES),
    window=st.sampled_from([1, 5, 8, 16, (4, 8)]),
)
def test_orders_are_permutations_with_their_inverse(rows, cols, name, window):
    order = token_order(rows, cols, name, window)
    assert torch.equal(order.order[order.inverse], torch.arange(rows * cols))
    tokens = torch.arange(rows * cols * 2).view(1, -1, 2)
    assert torch.equal(order.to_raster(order.to_sequence(tokens)), tokens)


@given(
    rows=st.integers(1, 70),
    cols=st.integers(1, 70),
    name=st.sampled_from(["window_raster", "window_hilbert", "window_tile8"]),
    window=st.sampled_from([4, 7, 16]),
)
def test_windows_are_contiguous_even_when_ragged(rows, cols, name, window):
    ids = window_ids(rows, cols, window, window)[token_order(rows, cols, name, window).order]
    assert runs(ids) == int(ids.max()) + 1


def test_ragged_windows_are_smaller_at_the_edge():
    assert window_edges(37, 16) == [0, 16, 32, 37]
    sizes = window_ids(37, 20, 16, 16).bincount().tolist()
    assert sizes == [256, 64, 256, 64, 80, 20]


def test_neighbouring_windows_follow_each_other_along_the_curve():
    ids = window_ids(80, 112, 16, 16)[window_order(80, 112, 16, 16, "hilbert", "curve")]
    visited = ids[::256]
    row, col = visited // 7, visited % 7
    assert ((row.diff().abs() + col.diff().abs()) == 1).all()


def test_tile_order_keeps_eight_by_eight_tiles_together():
    order = token_order(48, 64, "window_tile8").order
    tiles = window_ids(48, 64, 8, 8)[order].view(-1, 64)
    assert (tiles == tiles[:, :1]).all()


@pytest.mark.parametrize(
    ("grid", "contiguous"), [((256, 256), (1024, 256, 64)), ((240, 135), (0, 0, 0)), ((63, 97), (4, 0, 0))]
)
def test_one_curve_over_the_grid_keeps_windows_only_on_power_of_two_squares(grid, contiguous):
    """Whole 8 x 8, 16 x 16 and 32 x 32 windows that are one run (published table of the design)."""
    order = token_order(*grid, "hilbert").order
    found = []
    for side in (8, 16, 32):
        ids = window_ids(*grid, side, side)
        whole = ids.bincount() == side * side
        sequence = ids[order]
        starts = torch.cat([torch.tensor([True]), sequence.diff() != 0])
        found.append(int((whole & (sequence[starts].bincount(minlength=whole.numel()) == 1)).sum()))
    assert tuple(found) == contiguous


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ((256, 256), {"raster": 50.2, "window_raster": 16.9, "window_hilbert": 11.4, "window_tile8": 11.4}),
        ((128, 128), {"raster": 32.9, "window_raster": 15.8, "window_hilbert": 10.8, "hilbert": 10.8}),
        ((64, 64), {"raster": 16.8, "window_raster": 13.8, "window_hilbert": 9.6}),
        ((63, 97), {"hilbert": 15.9, "window_hilbert": 13.2}),
    ],
)
def test_key_blocks_touched_per_query_block(grid, expected):
    """Blocks of 64 keys that 128 queries reach with a radius of 8: what the order is for."""
    for name, blocks in expected.items():
        layout = AttentionLayout(0, grid, order=name, radius=8)
        block_map = layout.block_map((128, 64))
        assert block_map.count / block_map.shape[0] == pytest.approx(blocks, abs=0.06), name


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="order must be one of raster"):
        token_order(4, 4, "zigzag")
    with pytest.raises(ValueError, match="inside must be"):
        window_order(4, 4, 2, 2, "zigzag")
    with pytest.raises(ValueError, match="at least 1"):
        window_edges(4, 0)
