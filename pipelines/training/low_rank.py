"""Adapters and changes of weights in as few numbers as they need.

Source: the best approximation of a matrix of a given rank is its truncated singular value decomposition
(C. Eckart and G. Young, 1936).
"""

import torch
from torch import Tensor

DOWN, UP = "lora_A", "lora_B"
BYTES = 2  # of a stored number


def low_rank_change(base: dict[str, Tensor], trained: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """What training changed in matrices and kernels, as factors `<layer>.lora_A/B.weight` in fp16.

    Changes of biases and norms are left out.
    """
    factors = {}
    for name, weight in trained.items():
        change = weight - base[name]
        if change.ndim < 2:
            continue
        left, values, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
        root = values[:rank].sqrt()
        down = (root[:, None] * right[:rank]).unflatten(1, change.shape[1:])
        up = (left[:, :rank] * root).reshape(len(change), -1, *[1] * (change.ndim - 2))
        layer = name.removesuffix(".weight")
        factors[f"{layer}.{DOWN}.weight"] = down.half().contiguous()
        factors[f"{layer}.{UP}.weight"] = up.half().contiguous()
    return factors


def within_size(adapter: dict[str, Tensor], size: int) -> tuple[dict[str, Tensor], float]:
    """An adapter's most important directions, so many to each layer as it needs, in fp16.

    Directions are taken by their squared singular value per stored byte; every layer keeps one at least. No
    layer has an alpha, so each acts at strength 1 whatever its rank.

    Args:
        adapter: factors `<layer>.lora_A.weight` `[r, ...]` and `<layer>.lora_B.weight` `[out, r, ...]`.
        size: bytes that the factors may take.
    Returns:
        The adapter, and the share of the squared norm of all its products that it keeps.
    Raises:
        ValueError: one direction of each layer takes more than `size`.
    """
    layers = {name: _decompose(adapter, name) for name in adapter if f".{DOWN}." in name}
    costs = {name: BYTES * (left.shape[0] + right.shape[1]) for name, (left, _, right) in layers.items()}
    ranks, left_over = dict.fromkeys(layers, 1), size - sum(costs.values())
    if left_over < 0:
        raise ValueError(f"one direction of each layer takes {size - left_over} bytes, allowed are {size}")
    directions = sorted(
        (-(float(value) ** 2) / costs[name], name, index)
        for name, (_, values, _) in layers.items()
        for index, value in enumerate(values)
        if index
    )
    for _, name, index in directions:
        # a layer's values fall, so its directions come in order; one that doesn't fit ends the layer
        if index == ranks[name] and costs[name] <= left_over:
            ranks[name], left_over = index + 1, left_over - costs[name]
    out, kept, whole = {}, 0.0, 0.0
    for name, (left, values, right) in layers.items():
        rank = ranks[name]
        root, other = values[:rank].sqrt(), name.replace(DOWN, UP)
        down, up = adapter[name], adapter[other]
        out[name] = (root[:, None] * right[:rank]).reshape(rank, *down.shape[1:]).half().contiguous()
        out[other] = (left[:, :rank] * root).reshape(up.shape[0], rank, *up.shape[2:]).half().contiguous()
        kept += float(values[:rank].square().sum())
        whole += float(values.square().sum())
    return out, kept / whole if whole else 1.0


def _decompose(adapter: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values of up x down, with vectors as columns and rows; no larger matrix is ever built."""
    down, up = adapter[name].float().flatten(1), adapter[name.replace(DOWN, UP)].float().flatten(1)
    (left, inner_left), (right, inner_right) = torch.linalg.qr(up), torch.linalg.qr(down.mT)
    u, values, v = torch.linalg.svd(inner_left @ inner_right.mT)
    return left @ u, values, v @ right.mT
