"""Plain products against PyTorch's attention, and one padding token in place of many."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.training.short_attention import ShortAttention, attend_short


def random_heads(tokens, seed):
    return torch.randn(2, tokens, 3, 8, generator=torch.Generator().manual_seed(seed))


def test_products_equal_pytorchs_attention():
    query, key, value = (random_heads(11, seed) for seed in range(3))
    expected = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
    torch.testing.assert_close(attend_short(query, key, value), expected.transpose(1, 2))


@pytest.mark.parametrize("guided", [False, True])
def test_one_token_stands_for_many_alike(guided):
    text, copies = 5, 7
    query, key, value = (random_heads(text + 9, seed) for seed in range(3))
    guide = (random_heads(4, 3), random_heads(4, 4)) if guided else None
    short = ShortAttention(text, copies)(query, key, value, guide)
    index = [*range(text), *[text - 1] * (copies - 1), *range(text, text + 9)]
    long = ShortAttention(text + copies - 1)(*(part[:, index] for part in (query, key, value)), guide)
    torch.testing.assert_close(long[:, [*range(text), *range(text + copies - 1, len(index))]], short)


@pytest.mark.parametrize("copies", [1.0, 3.0])
def test_a_box_hides_what_is_far_and_leaves_text_and_guide(copies):
    text, rows, columns, radius = 4, 5, 6, 2
    query, key, value = (random_heads(text + rows * columns, seed) for seed in range(3))
    guide = (random_heads(3, 3), random_heads(3, 4))
    boxed = ShortAttention(text, copies, (rows, columns), radius)(query, key, value, guide)
    free = ShortAttention(text, copies)(query, key, value, guide)
    torch.testing.assert_close(boxed[:, :text], free[:, :text])  # text sees the whole picture
    at = text + 0 * columns + 1  # the token in row 0, column 1
    seen = [text + row * columns + column for row in range(3) for column in range(4)]
    index = [*range(text), *[text - 1] * (round(copies) - 1), *seen]
    keys, values = torch.cat([key[:, index], guide[0]], 1), torch.cat([value[:, index], guide[1]], 1)
    torch.testing.assert_close(boxed[:, at : at + 1], attend_short(query[:, at : at + 1], keys, values))
