"""What the layout means, written a second time: one query at a time, in plain Python.

It shares nothing with the op but the token orders, which have tests of their own.
"""

import math

import torch


def place(layout, index):
    """Segment and coordinates of a sequence position."""
    if index < layout.text:
        return "text", 0, 0
    index -= layout.text
    if index < layout.image:
        return "image", *divmod(int(layout.image_order.order[index]), layout.grid[1])
    return "guide", *divmod(int(layout.guide_order.order[index - layout.image]), layout.guide_grid[1])


def window_of_guide(layout, v, u):
    """Image window under the centre of a guide token."""
    ratio = [image / guide for image, guide in zip(layout.grid, layout.guide_grid, strict=True)]
    return tuple(math.floor((at + 0.5) * r / layout.window) for at, r in zip((v, u), ratio, strict=True))


def upstream_ids(layout, y, x, v, u):
    """Window numbers of an image and a guide token by the authors' formula."""
    scale = [max(image // guide, 1) for image, guide in zip(layout.grid, layout.guide_grid, strict=True)]
    a, b = (max(layout.window // s, 1) for s in scale)
    per_row = math.ceil(layout.guide_grid[1] / b)
    return (y // scale[0] // a) * per_row + x // scale[1] // b, (v // a) * per_row + u // b


def image_sees_image(layout, y, x, other_y, other_x):
    if layout.local == "radius":
        return max(abs(y - other_y), abs(x - other_x)) <= layout.radius
    w = layout.window
    apart = max(abs(y // w - other_y // w), abs(x // w - other_x // w))
    return apart <= (0 if layout.local == "own" else 1)


def image_sees_guide(layout, y, x, v, u):
    rule = layout.image_to_guide
    if rule in ("all", "none"):
        return rule == "all"
    if rule == "upstream_raster1":
        own, other = upstream_ids(layout, y, x, v, u)
        return abs(own - other) <= 1
    row, col = window_of_guide(layout, v, u)
    apart = max(abs(y // layout.window - row), abs(x // layout.window - col))
    return apart <= (1 if rule == "neighbours" else 0)


def sees(layout, query, key):
    """Whether the query at one sequence position may see the key at another, before any dilation."""
    (kind, y, x), (other, v, u) = query, key
    if other == "image":
        return kind == "text" or (kind == "image" and image_sees_image(layout, y, x, v, u))
    if other == "text":
        return kind != "guide" or layout.guide_to_text
    if kind == "text":
        return layout.text_to_guide
    if kind == "image":
        return image_sees_guide(layout, y, x, v, u)
    return layout.guide_to_guide == "all" or max(abs(y - v), abs(x - u)) <= layout.guide_radius


def mask(layout):
    """The whole token mask, dilation included: bool `[length, length]`."""
    places = [place(layout, index) for index in range(layout.length)]
    exact = torch.tensor([[sees(layout, query, key) for key in places] for query in places])
    if layout.dilate is None:
        return exact
    rows, cols = layout.dilate
    wide = exact.clone()
    for top in range(0, layout.length, rows):
        for left in range(0, layout.length, cols):
            block = (slice(top, top + rows), slice(left, left + cols))
            wide[block] = exact[block].any()
    return wide


def attention(query, key, value, visible, scale):
    """Output `[S, D]` and log-sum-exp `[S]` of one head in fp64; hidden keys are left out, not masked."""
    outputs, sums = [], []
    for row, seen in zip(query.double(), visible, strict=True):
        scores = key.double()[seen] @ row * scale
        sums.append(torch.logsumexp(scores, 0))
        outputs.append(torch.softmax(scores, 0) @ value.double()[seen])
    return torch.stack(outputs), torch.stack(sums)
