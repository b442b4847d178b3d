"""What a denoiser learns, read from its sampler's configuration; shared by the training recipes."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

# samplers that a model folder may name; never any other class
SAMPLERS = (
    "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
EARLY = 0.2  # of the times, from pure noise on, are early ones


def load_sampler(folder: Path) -> Any:
    """The sampler that a model folder names.

    Raises:
        ValueError: the folder names none of `SAMPLERS`.
    """
    try:
        name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["scheduler"][1]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{folder} is not a model folder ({error!r:.100})") from error
    if name not in SAMPLERS:
        raise ValueError(f"{folder} names the sampler {name!r}; allowed: {', '.join(SAMPLERS)}")
    return getattr(diffusers, name).from_pretrained(folder / "scheduler")


def from_pure_noise(sampler: Any) -> Any:
    """The sampler with a first time that is nothing but noise (arXiv 2305.08891), where it can have one.

    At the last time of the usual schedule a picture has drowned, but eight frames still show together what
    moves where: a network that is trained on it has no use for "to the left".
    """
    config = sampler.config
    if config.get("prediction_type") != "v_prediction" or "rescale_betas_zero_snr" not in config:
        return sampler
    return type(sampler).from_config(config, rescale_betas_zero_snr=True, timestep_spacing="trailing")


def draw_times(
    sampler: Any, count: int, generator: torch.Generator, early_share: float = 0.0
) -> torch.Tensor:
    """Times `[count]` as the denoiser reads them: evenly, or for flows mostly in the middle.

    Args:
        early_share: so many samples more lie among the early times, where the text decides what is seen
            (more noise for video: arXiv 2311.15127).
    """
    steps = sampler.config.num_train_timesteps
    if hasattr(sampler, "scale_noise"):
        levels = torch.sigmoid(torch.randn(count, generator=generator))
        return (_earlier(levels, early_share, generator) if early_share else levels) * steps
    times = torch.randint(0, steps, (count,), generator=generator)
    if early_share:
        times = (_earlier(times / steps, early_share, generator) * steps).long().clamp_max(steps - 1)
    return times


def noisy_and_target(
    sampler: Any, x: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents, and what the denoiser should answer.

    Args:
        sampler: says what is predicted: noise, velocity, the clean latents, or the velocity of a flow.
        x, noise: `[B, ...]`. times: `[B]`, as `draw_times` gives them.
    Raises:
        ValueError: another kind of prediction.
    """
    if hasattr(sampler, "scale_noise"):
        levels = (times / sampler.config.num_train_timesteps).view(-1, *(1,) * (x.ndim - 1))
        return x + levels * (noise - x), noise - x
    # the forward process is that of DDPM whatever sampler runs it backward (Euler's own scales its input)
    forward = diffusers.DDPMScheduler.from_config(sampler.config)
    kind = sampler.config.prediction_type
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"the sampler predicts {kind!r}; allowed: epsilon, v_prediction, sample")
    target = {"epsilon": noise, "sample": x}.get(kind)
    if target is None:
        target = forward.get_velocity(x, noise, times)
    return forward.add_noise(x, noise, times), target


def _earlier(levels: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Noise levels `[B]` in [0, 1], of which a share is drawn anew from the early ones."""
    chosen = torch.rand(len(levels), generator=generator) < share
    return torch.where(chosen, 1 - EARLY * torch.rand(len(levels), generator=generator), levels)
