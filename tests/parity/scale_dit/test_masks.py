"""Token masks and block maps against those of the authors' mask notebook, entry by entry."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.kernels.local_attention.layout import AttentionLayout
from tests.parity.cases import discover


def layout_of(record):
    """The layout of a recorded case; a window of 16 tokens and both radii are fixed in the notebook."""
    options = record["options"]
    return AttentionLayout(
        text=record["text_tokens"],
        grid=tuple(record["hi_res_grid"]),
        guide_grid=tuple(record["low_res_grid"]),
        order="window_raster" if options.get("permute_window_first", True) else "raster",
        local="radius" if options.get("use_sliding_window", True) else "own",
        image_to_guide="upstream_raster1" if options.get("hi_res_attend_scale", "all") == "all" else "none",
        text_to_guide=options.get("text_attend_scale") == "all",
        guide_to_guide="radius",
    )


def notebook_mask(layout):
    """The whole mask; without the sliding box the notebook keeps image to image in raster order."""
    mask = layout.token_mask()
    if layout.local == "own":
        image = slice(layout.text, layout.text + layout.image)
        mask[image, image] = replace(layout, order="raster").token_mask(image)[:, image]
    return mask


def whole_blocks(mask, rows, cols):
    """Blocks that hold a visible pair; tokens after the last whole block are dropped, as the builder does."""
    down, across = mask.shape[0] // rows, mask.shape[1] // cols
    return mask[: down * rows, : across * cols].view(down, rows, across, cols).any(3).any(1)


@pytest.mark.parametrize("case", discover("scale_dit", "mask_token_level_notebook", "cases"))
def test_token_masks(case):
    record, tensors = case.record("cases"), case.tensors()
    layout = layout_of(record)
    assert layout.length == record["n_tokens"]
    packed = tensors[f"{case.name}.token_mask_packed"].numpy()
    expected = np.unpackbits(packed, axis=-1)[:, : layout.length].astype(bool)
    mask = notebook_mask(layout)
    assert torch.equal(mask, torch.from_numpy(expected))
    assert int(mask.sum()) == record["allowed"]
    assert hashlib.sha256(mask.numpy().tobytes()).hexdigest() == record["sha256_of_unpacked_bool_bytes"]
    if layout.local == "radius":
        assert int(layout.keys_per_query().sum()) == record["allowed"]
    blocks = tensors.get(f"{case.name}.block_mask_128x64")
    if blocks is not None:
        assert torch.equal(whole_blocks(mask, 128, 64), blocks)


@pytest.mark.parametrize("case", discover("scale_dit", "mask_block_128x64", "cases"))
def test_block_maps(case):
    record = case.record("cases")
    layout = layout_of(record)
    expected = case.tensors()[case.name]
    if layout.local == "radius":
        down, across = layout.length // 128, layout.length // 64
        blocks = layout.block_map((128, 64)).dense()[:down, :across]
    else:
        blocks = whole_blocks(notebook_mask(layout), 128, 64)
    assert torch.equal(blocks, expected)
    assert int(blocks.sum()) == record["allowed_blocks"]
