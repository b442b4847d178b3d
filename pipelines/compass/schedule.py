"""Times of flow matching: the shifted list that CoMPaSS trains and samples FLUX with.

`t' = e^mu / (e^mu + 1/t - 1)`, with mu linear in the number of image tokens (256: 0.5, 4096: 1.15), from
FLUX.1.
"""

import math

BASE_TOKENS, MAX_TOKENS = 256, 4096
BASE_SHIFT, MAX_SHIFT = 0.5, 1.15
# what the authors sample with; see `reference_tokens` for the odd part
REFERENCE_STEPS, REFERENCE_SIDE_PX, REFERENCE_SEED = 50, 512, 123456789
REFERENCE_GUIDANCE, REFERENCE_TRUE_CFG = 4.0, 3.0
TRAIN_STEPS, TRAIN_TOKENS = 999, 4096  # the list that training draws its times from


def shift_of(image_tokens: int) -> float:
    """mu for a number of image tokens."""
    slope = (MAX_SHIFT - BASE_SHIFT) / (MAX_TOKENS - BASE_TOKENS)
    return BASE_SHIFT + (image_tokens - BASE_TOKENS) * slope


def flux_schedule(num_steps: int, image_tokens: int) -> list[float]:
    """`num_steps + 1` times from 1 to 0.

    Raises:
        ValueError: fewer than one step or token.
    """
    if num_steps < 1 or image_tokens < 1:
        raise ValueError(
            f"{num_steps} steps of {image_tokens} tokens were asked for; both must be at least 1"
        )
    import torch

    growth = math.exp(shift_of(image_tokens))
    times = torch.linspace(1, 0, num_steps + 1)  # single precision, as the authors have it
    return (growth / (growth + (1 / times - 1))).tolist()


def reference_tokens(height: int, width: int) -> int:
    """Tokens that the authors' sampler shifts by: a 64th of the real number, so that 512 px count as 16."""
    return max((width // 8) * (height // 8) // 256, 1)
