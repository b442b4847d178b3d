"""TENOR's table of positions: a fixed sinusoid over the tokens of the text, without a learned weight.

Channel 2i of position p is sin(p f_i), channel 2i + 1 is cos(p f_i), with f_i = 10000^(-2i / C') and C' the
number of channels rounded up to even (arXiv 2412.13195, section 3; the sinusoid is that of arXiv 1706.03762).
"""

import torch
from torch import Tensor

POSITION_MODES = ("continuous", "per_segment")
SEGMENT = 77  # tokens of one CLIP text
BASE = 10_000.0


def token_positions(length: int, position_mode: str = "continuous", segment: int = SEGMENT) -> Tensor:
    """Position of each of `length` tokens, `[L]` int64.

    Args:
        position_mode: "continuous" counts through; "per_segment" starts at 0 again every `segment` tokens.
    Raises:
        ValueError: an unknown mode, or a length or segment below 1.
    """
    check_positions(position_mode, segment)
    if length < 1:
        raise ValueError(f"a text has {length} tokens; it must have at least 1")
    positions = torch.arange(length)
    return positions % segment if position_mode == "per_segment" else positions


def check_positions(position_mode: str, segment: int) -> None:
    """Raise ValueError for an unknown position mode or a segment below 1."""
    if position_mode not in POSITION_MODES:
        raise ValueError(f"position_mode is {position_mode!r}; it must be one of {POSITION_MODES}")
    if segment < 1:
        raise ValueError(f"segment is {segment}; it must be at least 1")


def encode_positions(
    positions: Tensor, channels: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Rows of the table for any positions.

    Args:
        positions: `[L]`, any numeric dtype.
        channels: C, at least 1; an odd C leaves out the last cosine.
        dtype: of the result; sines and cosines are always taken in float32 and rounded afterwards.
    Returns:
        `[L, C]`.
    """
    if channels < 1:
        raise ValueError(f"the text has {channels} channels; it must have at least 1")
    even = channels + channels % 2
    exponents = torch.arange(0, even, 2, dtype=torch.float32, device=device) / even
    angles = positions.to(device, torch.float32)[:, None] * (1.0 / BASE**exponents)
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return table[:, :channels].to(dtype)


def tenor_table(
    length: int,
    channels: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    position_mode: str = "continuous",
    segment: int = SEGMENT,
) -> Tensor:
    """The table `[L, C]` that is added to the text of keys (UNet) or of queries and keys (FLUX).

    Its root mean square is 1/sqrt(2) for even C: as large as a normed text state, not a small correction.
    """
    return encode_positions(token_positions(length, position_mode, segment), channels, dtype, device)
