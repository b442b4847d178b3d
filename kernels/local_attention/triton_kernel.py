"""The kernel of `backend_triton`, which says when this is imported: here Triton must be there.

Triton reads `TRITON_INTERPRET` when it is imported and when a kernel is first defined.
"""

import triton
import triton.language as tl


@triton.jit
def _dots(q, k, scale, WIDEN: tl.constexpr):
    if WIDEN:
        k = k.to(tl.float32)
    return tl.dot(q, tl.trans(k), input_precision="ieee") * scale


@triton.jit
def _absorb(scores, v, top, total, acc, WIDEN: tl.constexpr):
    """One step of the online softmax."""
    new_top = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(weights, 1)
    acc = acc * shrink[:, None]
    rounded = weights.to(v.dtype)
    if WIDEN:
        acc += tl.dot(rounded.to(tl.float32), v.to(tl.float32), input_precision="ieee")
    else:
        acc = tl.dot(rounded, v, acc, input_precision="ieee")
    return new_top, total, acc


@triton.jit
def attend(
    query,  # [B, Q, H, DIM]
    key,  # [B, S, H, DIM], as is value
    value,
    output,  # [B, Q, H, DIM]
    lse,  # [B, H, Q]
    full_offsets,
    full_indices,
    part_offsets,
    part_indices,
    part_masks,
    masks,
    seen,
    order,
    num_queries,
    num_keys,
    heads,
    scale,  # of base-2 exponents
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    block = tl.load(order + tl.program_id(0))
    batch = tl.program_id(1) // heads
    head = tl.program_id(1) % heads
    row_stride = heads * DIM
    in_block = tl.arange(0, QUERIES)
    columns = tl.arange(0, KEYS)
    dims = tl.arange(0, PADDED)
    rows = block * QUERIES + in_block
    row_ok = rows < num_queries
    dim_ok = dims < DIM
    # 64-bit starts: a 16K picture has more than 2^31 numbers per tensor.
    query_base = (batch.to(tl.int64) * num_queries + block * QUERIES) * row_stride + head * DIM
    key_base = batch.to(tl.int64) * num_keys * row_stride + head * DIM
    query_tile = in_block[:, None] * row_stride + dims[None, :]
    query_ok = row_ok[:, None] & dim_ok[None, :]
    q = tl.load(query + query_base + query_tile, mask=query_ok, other=0.0)
    if WIDEN:
        q = q.to(tl.float32)
    tile = columns[:, None] * row_stride + dims[None, :]
    # Not -inf: a row whose first block is all hidden would compute exp2(-inf + inf).
    top = tl.full([QUERIES], -1.0e30, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, PADDED], tl.float32)

    for index in range(tl.load(full_offsets + block), tl.load(full_offsets + block + 1)):
        start = tl.load(full_indices + index).to(tl.int64) * KEYS
        at = key_base + start * row_stride
        if DIM == PADDED:
            k = tl.load(key + at + tile)
            v = tl.load(value + at + tile)
        else:
            k = tl.load(key + at + tile, mask=dim_ok[None, :], other=0.0)
            v = tl.load(value + at + tile, mask=dim_ok[None, :], other=0.0)
        scores = _dots(q, k, scale, WIDEN)
        top, total, acc = _absorb(scores, v, top, total, acc, WIDEN)

    for index in range(tl.load(part_offsets + block), tl.load(part_offsets + block + 1)):
        start = tl.load(part_indices + index).to(tl.int64) * KEYS
        pattern = tl.load(part_masks + index)
        # Keys that nobody here sees, or past the end, are never read: not even a NaN gets through.
        key_ok = ((tl.load(seen + pattern) >> columns.to(tl.int64)) & 1) != 0
        words = tl.load(masks + pattern * QUERIES + in_block)
        visible = ((words[:, None] >> columns[None, :].to(tl.int64)) & 1) != 0
        at = key_base + start * row_stride
        k = tl.load(key + at + tile, mask=key_ok[:, None] & dim_ok[None, :], other=0.0)
        v = tl.load(value + at + tile, mask=key_ok[:, None] & dim_ok[None, :], other=0.0)
        scores = tl.where(visible, _dots(q, k, scale, WIDEN), float("-inf"))
        top, total, acc = _absorb(scores, v, top, total, acc, WIDEN)

    empty = total == 0.0
    result = acc / tl.where(empty, 1.0, total)[:, None]
    tl.store(output + query_base + query_tile, result.to(output.dtype.element_ty), mask=query_ok)
    sums = (top + tl.log2(tl.where(empty, 1.0, total))) * 0.6931471805599453
    sums = tl.where(empty, float("-inf"), sums)
    tl.store(lse + tl.program_id(1).to(tl.int64) * num_queries + rows, sums, mask=row_ok)
