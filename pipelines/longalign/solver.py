"""Single steps of denoising, differentiable: clean estimate, DDIM step, consistency step.

t is the step 0 ... 999 of the noise schedule, alphas_cumprod `[1000]` its product a(t); x_t = sqrt(a) x0 +
sqrt(1 - a) eps.
Source: arXiv 2010.02502 (DDIM), arXiv 2310.04378 (LCM).
"""

import torch
from torch import Tensor

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def signal_and_noise(t: Tensor | int, alphas_cumprod: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a(t)) and sqrt(1 - a(t)), shaped to multiply `x` `[B, ...]`; a negative t counts as 0."""
    times = torch.as_tensor(t, device=alphas_cumprod.device).clamp(min=0)
    alpha = alphas_cumprod[times].to(x)
    alpha = alpha.view(-1, *(1,) * (x.ndim - 1)) if alpha.ndim else alpha
    return alpha.sqrt(), (1 - alpha).sqrt()


def predict_clean(
    output: Tensor, x: Tensor, t: Tensor | int, alphas_cumprod: Tensor, prediction: str = "epsilon"
) -> Tensor:
    """The clean estimate x0 from the network's output, by the scheduler's `prediction_type`."""
    signal, noise = signal_and_noise(t, alphas_cumprod, x)
    if prediction == "epsilon":
        return (x - noise * output) / signal
    if prediction == "v_prediction":
        return signal * x - noise * output
    if prediction == "sample":
        return output
    raise ValueError(f"prediction type is {prediction!r}; it must be epsilon, v_prediction or sample")


def predict_noise(
    output: Tensor, x: Tensor, t: Tensor | int, alphas_cumprod: Tensor, prediction: str = "epsilon"
) -> Tensor:
    """The noise estimate eps from the network's output."""
    if prediction == "epsilon":
        return output
    signal, noise = signal_and_noise(t, alphas_cumprod, x)
    if prediction == "v_prediction":
        return signal * output + noise * x
    return (x - signal * predict_clean(output, x, t, alphas_cumprod, prediction)) / noise


def ddim_step(clean: Tensor, noise: Tensor, t_next: Tensor | int, alphas_cumprod: Tensor) -> Tensor:
    """x at `t_next`: sqrt(a') x0 + sqrt(1 - a') eps, where `noise` is the estimate of eps.

    With fresh Gaussian noise instead of the estimate it is the step of a consistency model.
    """
    signal, sigma = signal_and_noise(t_next, alphas_cumprod, clean)
    return signal * clean + sigma * noise


def boundary_scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of a consistency model: f(x, t) = c_skip x + c_out x0, which is x itself at t = 0."""
    scaled = TIMESTEP_SCALING * t.float()
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    return skip, scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
