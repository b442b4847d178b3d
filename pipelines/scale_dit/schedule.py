"""Noise levels of a stage, its start, and what pulls its velocity towards the stage before."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

FrequencySchedule = Literal["none", "cosine_decay", "cosine_shift", "constant", "constant_hp"]


def euler_schedule(template: Any, steps: int, start: float, device: torch.device | str = "cpu") -> Any:
    """A fresh scheduler with `steps` noise levels from `start` on, under the template's static shift.

    Dynamic shifting is off, as in the authors' code. Before the shift the levels fall evenly from `start` to
    `start / steps`: with start = k / n and k steps they are the last k of n levels from 1 on, which is how a
    later stage joins the schedule of the first one in that code.

    Args:
        template: `FlowMatchEulerDiscreteScheduler`; it is not changed.
        start: in (0, 1].
    """
    scheduler = type(template).from_config(template.config, use_dynamic_shifting=False)
    scheduler.set_timesteps(sigmas=torch.linspace(start, start / steps, steps).tolist(), device=device)
    scheduler.set_begin_index(0)
    return scheduler


def level_before_shift(template: Any, level: float) -> float:
    """What the static shift takes to noise level `level`: s with shift s / (1 + (shift - 1) s) = level."""
    shift = float(template.config.shift)
    return level / (shift - (shift - 1) * level)


def blend_noise(latents: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Latents at noise level `sigma`: `(1 - sigma) latents + sigma noise`."""
    return (1 - sigma) * latents + sigma * noise


def guide_frequencies(
    velocity: Tensor, x: Tensor, enlarged: Tensor, sigma: float, progress: float, schedule: FrequencySchedule
) -> Tensor:
    """Pull a velocity towards the enlarged picture of the stage before.

    With w = (x - enlarged) / sigma the velocity that leads there, L the mean over each token's 2 x 2 latents
    (Haar's low-pass of the first level) and a = (1 + cos(pi progress)) / 2:
    "cosine_decay": v + a (L w - L v); "cosine_shift": v + a (w - v) + (1 - a) (L w - L v);
    "constant": v + (L w - L v); "constant_hp": v + (w - v) / 4; "none": v.

    Args:
        velocity, x, enlarged: packed tokens `[B, N, 4 C]`, all in the same order.
        sigma: noise level of `x`.
        progress: share of the stage's steps that are done, from 0.
    Returns:
        `[B, N, 4 C]`.
    """
    if schedule == "none":
        return velocity
    pull = (x - enlarged) / (sigma + 1e-6) - velocity
    if schedule == "constant_hp":
        return velocity + 0.25 * pull
    low = pull.unflatten(-1, (-1, 4)).mean(-1, keepdim=True).expand(*pull.shape[:-1], -1, 4).flatten(-2)
    if schedule == "constant":
        return velocity + low
    share = 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "cosine_decay":
        return velocity + share * low
    return velocity + share * pull + (1 - share) * low
