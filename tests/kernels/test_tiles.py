"""Tiles of windows: viewed where they lie in the sequence, gathered where they do not."""

import pytest
import torch

from pipelines.kernels.local_attention.chunks import TileReader, tile_chunks
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.plan import tile_plan


def own_windows(grid, order):
    return AttentionLayout(5, grid, (4, 3), window=8, order=order, local="own", image_to_guide="all")


@pytest.mark.parametrize(
    ("order", "is_own"),
    [("window_raster", True), ("window_hilbert", True), ("window_tile8", True), ("raster", False)],
)
def test_windows_of_a_window_order_are_runs_of_the_sequence(order, is_own):
    plan = tile_plan(own_windows((27, 21), order))
    assert len(plan.tiles) == 4  # whole windows, both kinds of edge, the corner
    assert plan.tiles[0].is_own is is_own
    for group in plan.tiles:
        assert group.mask is None and group.shared
        if group.is_own:
            assert torch.equal(group.queries, group.keys)


def test_other_patterns_are_gathered():
    for change in ({"local": "ring"}, {"local": "radius"}, {"image_to_guide": "aligned"}):
        options = {"local": "own", "image_to_guide": "all"} | change
        plan = tile_plan(AttentionLayout(5, (27, 21), (4, 3), window=8, **options))
        assert not any(group.is_own for group in plan.tiles)


@pytest.mark.parametrize("order", ["window_hilbert", "raster"])
def test_reading_and_writing_give_every_token_back(order):
    layout = own_windows((27, 21), order)
    tensors = tuple(torch.randn(layout.length, 2, 4) for _ in range(3))
    target = torch.full((layout.length, 2, 4), float("nan"))
    image = slice(layout.text, layout.text + layout.image)
    for group in tile_plan(layout).tiles:
        reader = TileReader(tensors, group, 3)
        for queries, keys in tile_chunks(group, 3):
            tiles, near_keys, near_values = reader.read(queries, keys)
            assert torch.equal(tiles, tensors[0][queries.long()])
            assert torch.equal(near_keys, tensors[1][keys.long()])
            assert torch.equal(near_values, tensors[2][keys.long()])
            reader.write(target, queries, tiles.flatten(0, 1))
    assert torch.equal(target[image], tensors[0][image])
    assert target[: layout.text].isnan().all() and target[image.stop :].isnan().all()


def test_a_run_is_read_without_a_copy():
    layout = own_windows((16, 16), "window_hilbert")
    tensors = tuple(torch.randn(layout.length, 2, 4) for _ in range(3))
    (group,) = tile_plan(layout).tiles
    parts = TileReader(tensors, group, 4).read(group.queries, group.keys)
    for part, whole in zip(parts, tensors, strict=True):
        assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
