"""The layout: token mask, block map, key counts and plan say the same thing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.plan import LARGE_TILE, SMALL_TILE, tile_plan
from tests.kernels import oracle


@st.composite
def layouts(draw):
    rows, cols = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    guide = draw(st.none() | st.tuples(st.integers(1, 6), st.integers(1, 6)))
    return AttentionLayout(
        text=draw(st.sampled_from([0, 1, 5])),
        grid=(rows, cols),
        guide_grid=guide,
        window=draw(st.sampled_from([2, 4, 5])),
        order=draw(st.sampled_from(["raster", "window_raster", "window_hilbert", "window_tile8", "hilbert"])),
        local=draw(st.sampled_from(["own", "ring", "radius"])),
        radius=draw(st.integers(0, 4)),
        dilate=draw(st.none() | st.sampled_from([(16, 8), (8, 12), (1, 1)])),
        image_to_guide=draw(st.sampled_from(["all", "aligned", "neighbours", "upstream_raster1", "none"])),
        text_to_guide=draw(st.booleans()),
        guide_to_text=draw(st.booleans()),
        guide_to_guide=draw(st.sampled_from(["all", "radius"])),
        guide_radius=draw(st.integers(0, 2)),
    )


@settings(max_examples=40)
@given(layout=layouts())
def test_mask_map_and_plan_agree_with_the_oracle(layout):
    expected = oracle.mask(layout)
    assert torch.equal(layout.token_mask(), expected)
    assert torch.equal(layout.keys_per_query(), expected.sum(1))
    for side in (SMALL_TILE, LARGE_TILE):
        assert torch.equal(plan_mask(layout, side), expected)
    rows, cols = layout.dilate or (16, 8)
    blocks = layout.block_map((rows, cols)).dense()
    for row, line in enumerate(blocks):
        for col, visible in enumerate(line):
            part = expected[row * rows : (row + 1) * rows, col * cols : (col + 1) * cols]
            assert bool(part.any()) == bool(visible)


def plan_mask(layout, side):
    """The pairs that a plan computes, each exactly once."""
    counts = torch.zeros(layout.length, layout.length, dtype=torch.int64)
    plan = tile_plan(layout, side)
    for block in plan.row_blocks(True):
        for start, stop in block.shared:
            counts[block.start : block.stop, start:stop] += 1
    for group in plan.tile_groups(True):
        for queries, keys in zip(group.queries.long(), group.keys.long(), strict=True):
            visible = (
                torch.ones(len(queries), len(keys), dtype=torch.bool) if group.mask is None else group.mask
            )
            counts[queries[:, None], keys[None, :]] += visible.long()
            for start, stop in group.shared:
                counts[queries, start:stop] += 1
    assert int(counts.max()) == 1
    return counts.bool()


@pytest.mark.parametrize(
    ("pixels", "blocks", "shape"),
    [
        ((1024, 1024), 1034, (38, 76)),
        ((2048, 2048), 4336, (140, 280)),
        ((3072, 3072), 9986, (310, 620)),
        ((4096, 4096), 17912, (548, 1096)),
        pytest.param((8192, 8192), 72904, (2180, 4360), marks=pytest.mark.slow),
    ],
)
def test_published_block_counts(pixels, blocks, shape):
    """Active 128 x 64 blocks of the authors' maps with 512 text tokens and a guide of a quarter per side."""
    grid = (pixels[0] // 16, pixels[1] // 16)
    layout = AttentionLayout(
        512,
        grid,
        (grid[0] // 4, grid[1] // 4),
        order="window_raster",
        image_to_guide="upstream_raster1",
        guide_to_guide="radius",
    )
    block_map = layout.block_map((128, 64))
    assert block_map.count == blocks
    assert block_map.shape == shape


def test_compressed_rows_hold_ascending_blocks():
    block_map = AttentionLayout(9, (20, 12), (5, 3), window=4, radius=2).block_map((16, 8))
    for row, line in enumerate(block_map.dense()):
        indices = block_map.indices[block_map.offsets[row] : block_map.offsets[row + 1]]
        assert indices.tolist() == line.nonzero()[:, 0].tolist()


def test_smaller_blocks_of_a_dilated_layout_keep_its_meaning():
    layout = AttentionLayout(5, (12, 12), (3, 3), window=4, radius=2, dilate=(16, 8))
    mask = layout.token_mask()
    fine = layout.block_map((8, 4)).dense()
    rows, cols = torch.arange(layout.length) // 8, torch.arange(layout.length) // 4
    assert torch.equal(fine[rows][:, cols], mask)
    with pytest.raises(ValueError, match="must divide the layout's dilation"):
        layout.block_map((32, 8))


def test_neighbours_are_two_dimensional_and_do_not_wrap():
    layout = AttentionLayout(0, (64, 64), (16, 16), order="raster")
    seen = layout.token_mask(slice(63, 64))[0, 64 * 64 :].view(16, 16)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[:8, 8:] = True
    assert torch.equal(seen, expected)


def test_upstream_rule_wraps_around_the_border_and_misses_vertical_neighbours():
    layout = AttentionLayout(0, (64, 64), (16, 16), order="raster", image_to_guide="upstream_raster1")
    left_of_second_window_row = 16 * 64
    seen = layout.token_mask(slice(left_of_second_window_row, left_of_second_window_row + 1))[0, 64 * 64 :]
    seen = seen.view(4, 4, 4, 4)[:, 0, :, 0]  # one flag per guide window
    assert seen.int().tolist() == [[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_guide_windows_follow_fractional_ratios_per_axis():
    """Ratios 2.5 and 1.6: guide rows 3 and 4 have their centres at image rows 8.75 and 11.25."""
    layout = AttentionLayout(0, (20, 24), (8, 15), window=10, order="raster", image_to_guide="aligned")
    seen = layout.token_mask(slice(0, 1))[0, 20 * 24 :].view(8, 15)
    assert seen.any(1).tolist() == [True] * 4 + [False] * 4
    assert seen.any(0).tolist() == [True] * 6 + [False] * 9


def test_work_of_a_large_layout_stays_proportional_to_the_tokens():
    layout = AttentionLayout(64, (256, 256), (64, 64))
    assert tile_plan(layout).scores() < layout.length * 1100
    assert layout.flops(1, 4, 64) == 4 * 4 * 64 * int(layout.keys_per_query().sum())


def test_layouts_are_hashable_and_accept_lists():
    one = AttentionLayout(4, [8, 8], [2, 2])
    assert one == AttentionLayout(4, (8, 8), (2, 2))
    assert len({one, AttentionLayout(4, (8, 8), (2, 2))}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": -1}, "text must be at least 0, got -1"),
        ({"grid": (0, 4)}, "grid must be two whole numbers"),
        ({"guide_grid": (4,)}, "guide_grid must be two whole numbers"),
        ({"dilate": (0, 64)}, "dilate must be two whole numbers"),
        ({"window": 0}, "window must be at least 1"),
        ({"radius": -1}, "radius must be at least 0"),
        ({"order": "spiral"}, "order must be one of raster"),
        ({"local": "global"}, "local must be one of own, ring, radius"),
        ({"image_to_guide": "some"}, "image_to_guide must be one of all"),
        ({"guide_to_guide": "none"}, "guide_to_guide must be one of all, radius"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        AttentionLayout(**{"text": 4, "grid": (8, 8), **change})


def test_a_layout_without_a_guide_has_no_guide_order():
    layout = AttentionLayout(4, (8, 8))
    assert layout.guide == 0 and layout.length == 68
    with pytest.raises(ValueError, match="no guide tokens"):
        _ = layout.guide_order
