"""The Triton kernel in Triton's CPU interpreter: `TRITON_INTERPRET=1 python -m tests.kernels.interpreted`.

Prints one line of JSON: errors against the reference in fp64 by case. A process of its own, because Triton
reads the variable when it is imported.
"""

import json

import torch

from pipelines.kernels.local_attention import backend_triton, reference
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention

BOX = AttentionLayout(7, (15, 13), (4, 3), window=8, radius=3)
LAYOUTS = {
    "sliding box": BOX,
    "no text, no guide": AttentionLayout(0, (13, 17), radius=2),
    "own window, all guide": AttentionLayout(
        9, (16, 20), (4, 5), window=8, local="own", image_to_guide="all"
    ),
    "ring, other order": AttentionLayout(0, (12, 19), (3, 4), window=4, local="ring", order="raster"),
    "authors' blocks": AttentionLayout.for_mode("block", 128, (16, 16), (4, 4)),
    "other blocks": AttentionLayout(7, (13, 11), (4, 5), radius=2, dilate=(24, 40), text_to_guide=True),
}


def tensors(layout, dtype, dim, batch=1, heads=1):
    generator = torch.Generator().manual_seed(3)
    shape = (batch, layout.length, heads, dim)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def relative(result, expected):
    return float((result.double() - expected.double()).norm() / expected.double().norm())


def compare(layout, dtype, dim, batch=1, heads=1):
    """Relative error of the output, largest error of the log-sum-exp."""
    query, key, value = tensors(layout, dtype, dim, batch, heads)
    output, lse = hierarchical_local_attention(
        query, key, value, layout, backend="triton", return_lse=True, scale=0.2
    )
    exact, sums = reference.forward(query.double(), key.double(), value.double(), layout, 0.2)
    return relative(output, exact), float((lse.double() - sums).abs().max())


def cached_guide():
    query, key, value = tensors(BOX, torch.float32, 32)
    rows = BOX.text + BOX.image
    whole = hierarchical_local_attention(query, key, value, BOX, backend="reference")[:, :rows]
    return relative(hierarchical_local_attention(query[:, :rows], key, value, BOX, backend="triton"), whole)


def hidden_keys():
    """Whether rows stay the same bit for bit when keys that they do not see change, and NaN gets nowhere."""
    query, key, value = tensors(BOX, torch.float32, 32)
    row = BOX.text + BOX.image // 2
    clean = hierarchical_local_attention(query, key, value, BOX, backend="triton")
    hidden = ~BOX.token_mask(slice(row, row + 1))[0]
    key[:, hidden], value[:, hidden] = 1e4, 1e4
    spoiled = hierarchical_local_attention(query, key, value, BOX, backend="triton")
    blind = AttentionLayout(4, (12, 12), (3, 3), radius=2, image_to_guide="none")
    query, key, value = tensors(blind, torch.float32, 32)
    rows = blind.text + blind.image
    key[:, rows:], value[:, rows:] = float("nan"), float("nan")
    alone = hierarchical_local_attention(query[:, :rows], key, value, blind, backend="triton")
    same = torch.equal(spoiled[:, row], clean[:, row]) and not torch.equal(spoiled, clean)
    return same and bool(alone.isfinite().all())


def gradients():
    """Largest relative error of the gradients of query, key and value."""
    given = [x.requires_grad_() for x in tensors(BOX, torch.float32, 32)]
    exact = [x.detach().double().requires_grad_() for x in given]
    output = hierarchical_local_attention(*given, BOX, backend="triton")
    expected = hierarchical_local_attention(*exact, BOX, backend="reference")
    change = torch.randn_like(output)
    found = torch.autograd.grad(output, given, change)
    wanted = torch.autograd.grad(expected, exact, change.double())
    return max(relative(a, b) for a, b in zip(found, wanted, strict=True))


def poison_outputs():
    real = torch.empty_like

    def poisoned(like, **options):
        result = real(like, **options)
        return result.fill_(float("nan")) if like.is_floating_point() else result

    torch.empty_like = poisoned


def main():
    assert backend_triton.interpreted()
    poison_outputs()
    report = {name: compare(layout, torch.float32, 32) for name, layout in LAYOUTS.items()}
    report["head of 48, batch, heads"] = compare(LAYOUTS["no text, no guide"], torch.float32, 48, 2, 2)
    report["half"] = compare(BOX, torch.float16, 64)
    report["bfloat16"] = compare(BOX, torch.bfloat16, 64)
    largest = AttentionLayout(512 - 15 * 20, (15, 20), radius=8)
    report["512 tokens"] = compare(largest, torch.bfloat16, 128)
    report |= {"cached guide": cached_guide(), "hidden keys": hidden_keys(), "gradients": gradients()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
