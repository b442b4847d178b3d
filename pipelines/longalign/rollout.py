"""From noise to a picture with a gradient that is both short and useful.

The network sees detached inputs and runs with gradient on few steps, under checkpointing; the linear path
x_t -> x0 -> x_(t - jump) keeps its gradient everywhere, so that every such step still reaches the result.

Source: arXiv 2410.11817 (after DRTune, arXiv 2405.00760).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipelines.longalign.solver import ddim_step, predict_clean, predict_noise

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x [B, ...], t [B], context [B, S, C]) -> output
Predict = Callable[[Tensor, int], Tensor]  # (x [B, ...], t) -> output


def guided(network: Network, cond: Tensor, uncond: Tensor, scale: float) -> Predict:
    """Classifier-free guidance u + s (c - u), both branches in one call and both with gradient."""
    context = torch.cat([cond, uncond])

    def predict(x: Tensor, t: int) -> Tensor:
        twice = torch.cat([x, x])
        asked, plain = network(twice, torch.full((len(twice),), t, device=x.device), context).chunk(2)
        return plain + scale * (asked - plain)

    return predict


def unguided(network: Network, cond: Tensor) -> Predict:
    """The network with its prompt alone, as a distilled one is used."""
    return lambda x, t: network(x, torch.full((len(x),), t, device=x.device), cond)


def timesteps_of(steps: int, total: int = 1000) -> list[int]:
    """The last time and then every `total / steps`-th one: 999, 979, ..., 19 for 50 steps."""
    return list(range(total - 1, -1, -(total // steps)))[:steps]


def rollout(
    predict: Predict,
    x: Tensor,
    alphas_cumprod: Tensor,
    *,
    start: int,
    steps: int = 50,
    every: int = 10,
    prediction: str = "epsilon",
) -> Tensor:
    """DDIM from pure noise `x` `[B, ...]`; returns the clean estimate of the last step.

    Args:
        start: the network has gradient on steps start, start + every, ...; 0 to `every` - 1, drawn at random
            for each rollout (so 5 of 50 steps have it).
        prediction: the scheduler's `prediction_type`.
    """
    if not 0 <= start < every:
        raise ValueError(f"start is {start}; it must lie between 0 and {every - 1}")
    jump, clean = len(alphas_cumprod) // steps, x
    for index, t in enumerate(timesteps_of(steps, len(alphas_cumprod))):
        output = _output(predict, x, t, index % every == start)
        clean = predict_clean(output, x, t, alphas_cumprod, prediction)
        x = ddim_step(
            clean, predict_noise(output, x, t, alphas_cumprod, prediction), t - jump, alphas_cumprod
        )
    return clean


def consistency_rollout(
    predict: Predict,
    x: Tensor,
    alphas_cumprod: Tensor,
    fresh_noise: Callable[[int], Tensor],
    *,
    steps: int = 4,
    prediction: str = "epsilon",
) -> Tensor:
    """The few steps of a consistency model, all with gradient; returns the last clean estimate.

    Args:
        fresh_noise: Gaussian noise like `x` for the step of that index; the last step's is not used.
    """
    jump, clean = len(alphas_cumprod) // steps, x
    for index, t in enumerate(timesteps_of(steps, len(alphas_cumprod))):
        clean = predict_clean(_output(predict, x, t, True), x, t, alphas_cumprod, prediction)
        if index < steps - 1:
            x = ddim_step(clean, fresh_noise(index), t - jump, alphas_cumprod)
    return clean


def _output(predict: Predict, x: Tensor, t: int, with_gradient: bool) -> Tensor:
    if with_gradient and torch.is_grad_enabled():
        return checkpoint(predict, x.detach(), t, use_reentrant=False)
    with torch.no_grad():
        return predict(x, t)
