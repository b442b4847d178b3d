"""The op: every back end computes what the layout says, on every grid, and nothing else gets through."""

import itertools

import pytest
import torch

from pipelines.kernels.local_attention import backend_explicit, backend_sdpa
from pipelines.kernels.local_attention.chunks import merge
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import (
    BackendUnavailable,
    explain,
    hierarchical_local_attention,
)
from pipelines.kernels.local_attention.reference import masked_attention
from tests.kernels import oracle

TILED = ("sdpa", "explicit")
SKIPPING = ("reference", *TILED)  # these never touch a hidden key
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYOUTS = {
    "sliding box": AttentionLayout(7, (21, 37), (6, 9), window=8, radius=3),
    "sliding box, all guide": AttentionLayout(3, (24, 24), (6, 6), window=8, image_to_guide="all"),
    "own window": AttentionLayout(
        130, (32, 48), (8, 12), local="own", image_to_guide="all", guide_to_text=True
    ),
    "one own window": AttentionLayout(5, (16, 16), None, local="own"),
    "ring": AttentionLayout(0, (40, 23), (10, 6), window=8, local="ring", image_to_guide="aligned"),
    "upstream exact": AttentionLayout(
        16,
        (32, 32),
        (8, 8),
        order="window_raster",
        image_to_guide="upstream_raster1",
        guide_to_guide="radius",
    ),
    "upstream blocks": AttentionLayout(
        128,
        (32, 48),
        (8, 12),
        order="window_raster",
        dilate=(128, 64),
        image_to_guide="upstream_raster1",
        guide_to_guide="radius",
    ),
    "ragged blocks": AttentionLayout(
        7, (27, 19), (7, 5), window=8, radius=2, dilate=(32, 16), text_to_guide=True
    ),
    "no guide, no text": AttentionLayout(0, (15, 33), None, radius=2),
}


def tensors(layout, batch=1, heads=2, dim=16, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, layout.length, heads, dim)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).mul(scale).to(dtype) for _ in range(3)
    ]


def error(result, expected):
    return float((result.double() - expected.double()).norm() / expected.double().norm())


def poisoned_empty(monkeypatch):
    """Make every buffer of the back ends start as NaN."""
    real = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *args, **more: real(*args, **more).fill_(float("nan")))


@pytest.mark.parametrize(
    "layout",
    [
        AttentionLayout(5, (11, 13), (3, 4), window=4, radius=2),
        AttentionLayout(0, (11, 13), (3, 4), window=4, local="ring", image_to_guide="aligned"),
        AttentionLayout(3, (13, 9), (4, 3), window=4, radius=2, dilate=(16, 8), text_to_guide=True),
        AttentionLayout(
            4, (12, 12), (3, 3), window=4, image_to_guide="upstream_raster1", guide_to_guide="radius"
        ),
    ],
    ids=["box", "ring", "blocks", "upstream"],
)
def test_reference_equals_a_loop_over_queries(layout):
    query, key, value = tensors(layout, heads=1, dim=8)
    output, lse = hierarchical_local_attention(
        query, key, value, layout, backend="reference", return_lse=True, scale=0.3
    )
    visible = oracle.mask(layout)
    expected, expected_lse = oracle.attention(query[0, :, 0], key[0, :, 0], value[0, :, 0], visible, 0.3)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output[0, :, 0], expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(lse[0, 0], expected_lse, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("backend", TILED)
@pytest.mark.parametrize("name", LAYOUTS)
def test_back_ends_equal_the_reference(name, backend, monkeypatch):
    layout = LAYOUTS[name]
    query, key, value = tensors(layout, batch=2, heads=2, dim=32)
    expected, expected_lse = hierarchical_local_attention(
        query, key, value, layout, backend="reference", return_lse=True
    )
    poisoned_empty(monkeypatch)
    for dtype, tolerance in TOLERANCE.items():
        given = [tensor.to(dtype) for tensor in (query, key, value)]
        output, lse = hierarchical_local_attention(*given, layout, backend=backend, return_lse=True)
        assert output.dtype == dtype and output.is_contiguous()
        assert lse.dtype == torch.float32 and lse.shape == (2, 2, layout.length)
        assert error(output, expected) < tolerance
        if dtype == torch.float32:
            assert float((lse - expected_lse).abs().max()) < 1e-5


@pytest.mark.parametrize("grid", [(63, 97), (135, 240)])
def test_odd_grids_of_real_size(grid):
    """Rows from the corners, the borders and the middle, against the reference for those rows alone."""
    layout = AttentionLayout(7, grid, (grid[0] // 4 + 1, grid[1] // 5), radius=8)
    query, key, value = tensors(layout, heads=1, dtype=torch.float32)
    output = hierarchical_local_attention(query, key, value, layout, backend="sdpa")
    assert output.isfinite().all()
    for start in (0, layout.text, layout.image // 2, layout.image - 30, layout.length - 40):
        rows = slice(start, start + 40)
        expected, _ = masked_attention(query[:, rows], key, value, layout.token_mask(rows), 0.25)
        assert error(output[:, rows], expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_default_is_no_worse_than_twice_plain_attention(dtype):
    layout = LAYOUTS["one own window"]
    query, key, value = tensors(layout, heads=4, dim=64, dtype=dtype)
    exact = hierarchical_local_attention(
        query.double(), key.double(), value.double(), layout, backend="reference"
    )
    image = slice(layout.text, None)  # every image token sees all tokens here, as in plain attention
    plain = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value))
    ).transpose(1, 2)
    ours = hierarchical_local_attention(query, key, value, layout, backend="sdpa")
    assert error(ours[:, image], exact[:, image]) <= 2 * error(plain[:, image], exact[:, image])


@pytest.mark.parametrize("backend", SKIPPING)
@pytest.mark.parametrize("name", ["sliding box", "upstream exact", "ragged blocks", "sliding box, all guide"])
def test_guide_from_a_cache_gives_the_same_rows(name, backend):
    layout = LAYOUTS[name]
    query, key, value = tensors(layout, dtype=torch.float32)
    rows = layout.text + layout.image
    whole = hierarchical_local_attention(query, key, value, layout, backend=backend)
    part, lse = hierarchical_local_attention(
        *(x[:, :rows] for x in (query, key, value)),
        layout,
        guide=(key[:, rows:], value[:, rows:]),
        backend=backend,
        return_lse=True,
    )
    assert part.shape[1] == rows and lse.shape[2] == rows
    torch.testing.assert_close(part, whole[:, :rows], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", SKIPPING)
@pytest.mark.parametrize("local", ["own", "ring", "radius"])
def test_order_does_not_matter_in_exact_mode(backend, local):
    """The same tokens in raster order: equal outputs after undoing the order."""
    results = []
    for order in ("raster", "window_raster", "window_hilbert", "window_tile8", "hilbert"):
        layout = AttentionLayout(5, (19, 26), (5, 7), window=8, local=local, radius=4, order=order)
        query, key, value = tensors(layout, dtype=torch.float32)
        permutation = torch.cat(
            [
                torch.arange(5),
                5 + layout.image_order.order,
                5 + layout.image + layout.guide_order.order,
            ]
        )
        output = hierarchical_local_attention(
            *(x[:, permutation] for x in (query, key, value)), layout, backend=backend
        )
        results.append(output[:, torch.argsort(permutation)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", TILED)
@pytest.mark.parametrize("name", ["sliding box", "upstream blocks", "own window", "ragged blocks"])
def test_hidden_keys_change_nothing_bit_for_bit(name, backend):
    layout = LAYOUTS[name]
    query, key, value = tensors(layout, dtype=torch.float32)
    clean = hierarchical_local_attention(query, key, value, layout, backend=backend)
    row = layout.text + layout.image // 2
    hidden = ~layout.token_mask(slice(row, row + 1))[0]
    assert hidden.any()
    key[:, hidden], value[:, hidden] = 1e4, 1e4
    spoiled = hierarchical_local_attention(query, key, value, layout, backend=backend)
    assert torch.equal(spoiled[:, row], clean[:, row])
    assert not torch.equal(spoiled, clean)


@pytest.mark.parametrize("backend", SKIPPING)
def test_keys_that_nobody_sees_may_be_nan(backend):
    layout = AttentionLayout(4, (20, 20), (5, 5), window=8, radius=3, image_to_guide="none")
    query, key, value = tensors(layout, dtype=torch.float32)
    rows = layout.text + layout.image
    nan = torch.full_like(key[:, rows:], float("nan"))
    output = hierarchical_local_attention(
        query[:, :rows], key[:, :rows], value[:, :rows], layout, guide=(nan, nan), backend=backend
    )
    assert not output.isnan().any()


@pytest.mark.parametrize("backend", SKIPPING)
def test_values_leak_from_visible_positions_only(backend):
    """One-hot values by position: the output is the attention row itself."""
    layout = AttentionLayout(3, (9, 7), (3, 2), window=4, radius=2)
    length = layout.length
    query, key, _ = tensors(layout, dim=length, heads=1, dtype=torch.float32)
    value = torch.eye(length)[None, :, None, :]
    mass = hierarchical_local_attention(query, key, value, layout, backend=backend)[0, :, 0]
    visible = layout.token_mask()
    assert (mass[~visible] == 0).all()
    assert (mass[visible] > 0).all()
    torch.testing.assert_close(mass.sum(1), torch.ones(length))


@pytest.mark.parametrize("backend", SKIPPING)
def test_peaked_shifted_and_uniform_scores(backend):
    layout = LAYOUTS["sliding box"]
    query, key, value = tensors(layout, dtype=torch.float32, scale=8.0)
    exact = hierarchical_local_attention(
        *(x.double() for x in (query, key, value)), layout, backend="reference"
    )
    assert error(hierarchical_local_attention(query, key, value, layout, backend=backend), exact) < 5e-5
    query, key, value = tensors(layout, dtype=torch.float32)
    base = hierarchical_local_attention(query, key, value, layout, backend=backend)
    shifted = hierarchical_local_attention(query, key + 30.0, value, layout, backend=backend)
    assert error(shifted, base) < 2e-4
    key[:] = key[:, :1]
    uniform = hierarchical_local_attention(query, key, value, layout, backend=backend)
    visible = layout.token_mask().float()
    mean = torch.einsum("qk,bkhd->bqhd", visible / visible.sum(1, keepdim=True), value)
    torch.testing.assert_close(uniform, mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", TILED)
def test_huge_values_and_one_huge_key_stay_finite(backend):
    layout = LAYOUTS["sliding box"]
    query, key, value = tensors(layout, dtype=torch.float32)
    value[:, 50] = 65504.0 * 4
    key[:, 60] *= 1e4
    output = hierarchical_local_attention(query, key, value, layout, backend=backend)
    expected = hierarchical_local_attention(query, key, value, layout, backend="reference")
    assert output.isfinite().all()
    assert error(output, expected) < 1e-4


@pytest.mark.parametrize("backend", TILED)
def test_strided_inputs(backend):
    """Query, key and value as slices of one fused projection."""
    layout = LAYOUTS["sliding box"]
    fused = torch.stack(tensors(layout, batch=2, dtype=torch.float32), 2)
    views = fused.unbind(2)
    assert not views[0].is_contiguous()
    expected = hierarchical_local_attention(*(x.clone() for x in views), layout, backend=backend)
    assert torch.equal(hierarchical_local_attention(*views, layout, backend=backend), expected)


def test_a_query_without_keys_gives_zero_and_minus_infinity():
    query, key, value = (torch.randn(1, 3, 2, 4) for _ in range(3))
    visible = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    output, lse = masked_attention(query, key, value, visible, 0.5)
    assert (output[:, 1] == 0).all() and (lse[:, :, 1] == -torch.inf).all()
    assert output[:, 0].abs().sum() > 0 and lse[:, :, 0].isfinite().all()


def test_merging_parts_equals_attending_at_once_in_any_order():
    query, key, value = (torch.randn(1, 6, 2, 8, dtype=torch.float64) for _ in range(3))
    everything = torch.ones(6, 6, dtype=torch.bool)
    whole, whole_lse = masked_attention(query, key, value, everything, 0.3)
    parts = []
    for columns in ((0, 1), (2, 3, 4), (5,)):
        output, lse = masked_attention(query, key[:, columns], value[:, columns], everything[:, columns], 0.3)
        parts.append((output.float(), lse.float().transpose(1, 2)))
    parts.append((torch.zeros_like(parts[0][0]), torch.full_like(parts[0][1], -torch.inf)))  # an empty part
    for order in itertools.permutations(parts):
        output, lse = order[0]
        for other, other_lse in order[1:]:
            output, lse = merge(output, lse, other, other_lse)
        torch.testing.assert_close(output, whole.float(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(lse.transpose(1, 2), whole_lse.float(), atol=1e-6, rtol=1e-5)
    nothing = merge(*parts[-1], *parts[-1])
    assert (nothing[0] == 0).all() and (nothing[1] == -torch.inf).all()


def test_chunks_do_not_change_the_result(monkeypatch):
    layout = LAYOUTS["own window"]
    query, key, value = tensors(layout, dtype=torch.float32)
    for backend in TILED:
        whole = hierarchical_local_attention(query, key, value, layout, backend=backend)
        monkeypatch.setattr(backend_sdpa, "_CHUNK_BYTES", 1)
        monkeypatch.setattr(backend_explicit, "_CHUNK_BYTES", 1)
        torch.testing.assert_close(
            hierarchical_local_attention(query, key, value, layout, backend=backend), whole
        )
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("vectors", "tiles", "bf16"),
    [(True, True, "sdpa"), (True, False, "explicit"), (False, False, "sdpa"), (None, None, "sdpa")],
)
def test_automatic_choice_follows_dtype_and_processor(monkeypatch, vectors, tiles, bf16):
    """None: a PyTorch without the probe."""
    for name, answer in (("_is_avx512_bf16_supported", vectors), ("_is_amx_tile_supported", tiles)):
        monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)
        if answer is None:
            monkeypatch.delattr(torch.cpu, name)
    layout = LAYOUTS["sliding box"]
    chosen = {dtype: explain(layout, torch.empty(1, dtype=dtype)).backend for dtype in TOLERANCE}
    assert chosen == {torch.float32: "sdpa", torch.float16: "sdpa", torch.bfloat16: bf16}
    wide = explain(layout, torch.empty(1, dtype=torch.float64))
    assert wide.backend == "explicit" and "float64" in wide.refused["sdpa"]
    elsewhere = explain(layout, torch.empty(1, device="meta"))
    assert elsewhere.backend == "explicit" and "CPU tensor" in elsewhere.refused["sdpa"]
    assert str(elsewhere).startswith("explicit: ") and "not sdpa: " in str(elsewhere)


def test_a_named_back_end_that_cannot_run_says_why():
    layout = LAYOUTS["sliding box"]
    with pytest.raises(BackendUnavailable, match=r"'sdpa' cannot run: needs float32.*float64"):
        hierarchical_local_attention(*tensors(layout), layout, backend="sdpa")
    with pytest.raises(ValueError, match="backend must be auto or one of"):
        hierarchical_local_attention(*tensors(layout), layout, backend="fastest")


def test_shapes_that_do_not_fit_are_named():
    layout = LAYOUTS["sliding box"]
    query, key, value = tensors(layout, dtype=torch.float32)
    rows = layout.text + layout.image
    with pytest.raises(ValueError, match=r"query must be \[B, S, H, D\]"):
        hierarchical_local_attention(query[0], key, value, layout)
    with pytest.raises(ValueError, match=f"query must have {layout.length} rows, or {rows}"):
        hierarchical_local_attention(query[:, 1:], key, value, layout)
    with pytest.raises(ValueError, match="key must be"):  # grouped heads are not supported
        hierarchical_local_attention(query, key[:, :, :1], value, layout)
    with pytest.raises(ValueError, match=r"value must be torch\.float32"):
        hierarchical_local_attention(query, key, value.double(), layout)
    with pytest.raises(ValueError, match="guide key and value must be"):
        hierarchical_local_attention(
            query[:, :rows],
            key[:, :rows],
            value[:, :rows],
            layout,
            guide=(key[:, rows + 1 :], value[:, rows:]),
        )
    with pytest.raises(ValueError, match="floating dtype"):
        hierarchical_local_attention(query.long(), key.long(), value.long(), layout)
