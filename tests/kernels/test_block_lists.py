"""Full and partial blocks with their bit masks: exactly the token mask, on every layout and block size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.local_attention.backend_flex import block_mask
from pipelines.kernels.local_attention.block_lists import block_lists
from pipelines.kernels.local_attention.layout import AttentionLayout
from tests.kernels.test_layout import layouts


def lists_mask(lists, rows, length):
    """The pairs that the lists name, each once; nothing past the ends."""
    high, wide = lists.block
    counts = torch.zeros(rows, length, dtype=torch.int64)
    for block in range(lists.full_offsets.numel() - 1):
        queries = slice(block * high, (block + 1) * high)
        for number in range(lists.full_offsets[block], lists.full_offsets[block + 1]):
            start = int(lists.full_indices[number]) * wide
            assert start + wide <= length
            counts[queries, start : start + wide] += 1
        for number in range(lists.part_offsets[block], lists.part_offsets[block + 1]):
            start, pattern = int(lists.part_indices[number]) * wide, int(lists.part_masks[number])
            bits = (lists.masks[pattern][:, None] >> torch.arange(wide)) & 1
            seen = (lists.seen[pattern] >> torch.arange(wide)) & 1
            assert torch.equal(seen, bits.amax(0)) and bits.any()
            part = counts[queries, start : start + wide]
            part += bits[: part.shape[0], : part.shape[1]]
            assert int(bits.sum()) == int(bits[: part.shape[0], : part.shape[1]].sum())
    assert int(counts.max()) <= 1
    return counts.bool()


@settings(max_examples=40)
@given(
    layout=layouts(),
    block=st.sampled_from([(16, 8), (8, 16), (32, 64), (5, 7)]),
    with_guide=st.booleans(),
)
def test_lists_name_the_visible_pairs_and_nothing_else(layout, block, with_guide):
    rows = layout.length if with_guide else layout.text + layout.image
    lists = block_lists(layout, block, rows)
    assert torch.equal(lists_mask(lists, rows, layout.length), layout.token_mask(slice(0, rows)))
    work = lists.full_offsets.diff() + lists.part_offsets.diff()
    assert sorted(lists.order.tolist()) == list(range(-(-rows // block[0])))
    assert (work[lists.order.long()].diff() <= 0).all()


@pytest.mark.parametrize("mode", ["exact", "block", "window"])
@pytest.mark.parametrize("grid", [(63, 97), (32, 32)])
@pytest.mark.parametrize("text", [0, 7, 512])
def test_counts_of_pairs_on_grids_of_real_size(mode, grid, text):
    layout = AttentionLayout.for_mode(mode, text, grid, (grid[0] // 4, grid[1] // 3))
    lists = block_lists(layout)
    full = lists.full_indices.numel() * 128 * 64
    last = layout.length % 128
    if last:  # the last query block is shorter
        count = lists.full_offsets.numel() - 1
        full -= int(lists.full_offsets[count] - lists.full_offsets[count - 1]) * (128 - last) * 64
    bits = sum(((lists.masks >> n) & 1).sum(1) for n in range(64))
    partial = int(bits[lists.part_masks.long()].sum())
    assert full + partial == int(layout.keys_per_query().sum())


def test_few_patterns_serve_a_large_picture():
    lists = block_lists(AttentionLayout(512, (128, 128), (32, 32)))
    assert lists.part_indices.numel() > 1000 and lists.masks.shape[0] < 40
    assert not lists.masks.unique(dim=0).shape[0] < lists.masks.shape[0]


@pytest.mark.parametrize("mode", ["exact", "block", "window"])
def test_flex_block_mask_holds_the_same_blocks_and_mask(mode):
    layout = AttentionLayout.for_mode(mode, 9, (24, 20), (6, 5))
    mask = block_mask(layout, layout.length, "cpu")
    assert torch.equal(mask.to_dense()[0, 0].bool(), layout.block_map((128, 64)).dense())
    positions = torch.arange(layout.length)
    visible = mask.mask_mod(positions[0], positions[0], positions[:, None], positions)
    assert torch.equal(visible, layout.token_mask())
    rows = layout.text + layout.image
    assert block_mask(layout, rows, "cpu").seq_lengths == (rows, layout.length)


def test_key_blocks_beyond_the_bits_of_a_word_are_refused():
    with pytest.raises(ValueError, match="1 to 64 keys, got 128 x 128"):
        block_lists(AttentionLayout(0, (8, 8)), (128, 128))
