"""More frames between the frames of a video: faded, moved along the optical flow, or by a model.

The masked-context model is the video UNet with 2 C + 1 input channels: noisy latents, given latents (zero
where none is given), and the mask that says where. Source of the mechanism: arXiv 2304.08818 (VideoLDM).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.vidrd.motion import optical_flow, to_frames, warp
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel

FACTORS = (2, 4)
WINDOW = 9  # frames the model sees: three given ones at factor 4, five at factor 2


def check_factor(frames: Sequence[Image.Image], factor: int) -> None:
    """Raise ValueError when there is nothing between these frames, or the factor isn't one of `FACTORS`."""
    if factor not in FACTORS:
        raise ValueError(f"the factor of interpolation is {factor!r}; allowed: {FACTORS}")
    if len(frames) < 2:
        raise ValueError(f"interpolation needs at least 2 frames, got {len(frames)}")


def interpolate_linear(frames: Sequence[Image.Image], factor: int) -> list[Image.Image]:
    """Fade from frame to frame; n frames become (n - 1) factor + 1, the given ones stay as they are."""
    check_factor(frames, factor)
    pixels = to_frames(frames)
    out: list[Image.Image] = []
    for index, frame in enumerate(frames[:-1]):
        steps = [torch.lerp(pixels[index], pixels[index + 1], step / factor) for step in range(1, factor)]
        out += [frame.convert("RGB"), *(_picture(step) for step in steps)]
    return [*out, frames[-1].convert("RGB")]


def interpolate_flow(frames: Sequence[Image.Image], factor: int) -> list[Image.Image]:
    """Move both frames along the optical flow to the moment between them, and fade.

    Where the way there and back of one frame doesn't end where it began (something was covered or uncovered),
    the other counts alone.
    """
    check_factor(frames, factor)
    return list(flow_stream(frames, factor))


def flow_stream(frames: Iterable[Image.Image], factor: int) -> Iterator[Image.Image]:
    """`interpolate_flow` of frames that come one by one, two of them in memory; a single one stays alone."""
    last: Image.Image | None = None
    for frame in frames:
        if last is not None:
            yield last.convert("RGB")
            yield from _between(last, frame, factor)
        last = frame
    if last is not None:
        yield last.convert("RGB")


def _between(first: Image.Image, second: Image.Image, factor: int) -> list[Image.Image]:
    one, two = to_frames([first]), to_frames([second])
    there, back = optical_flow(one, two), optical_flow(two, one)
    trust_first, trust_second = _agreement(there, back), _agreement(back, there)
    pictures = []
    for step in range(1, factor):
        t = step / factor
        to_first, to_second = -t * there, -(1 - t) * back
        share, other = (1 - t) * warp(trust_first, to_first), t * warp(trust_second, to_second)
        mixed = share * warp(one, to_first) + other * warp(two, to_second)
        pictures.append(_picture((mixed / (share + other))[0]))
    return pictures


def _agreement(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """1 where going along the flow and back ends where it began, near 0 where it doesn't: `[B, 1, H, W]`."""
    error = (flow + warp(back, flow)).square().sum(1, keepdim=True)
    return torch.exp(-error).clamp_min(0.01)


def _picture(frame: torch.Tensor) -> Image.Image:
    array = (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array.numpy()))


def interpolation_unet(video: VidRDUNet3DModel) -> VidRDUNet3DModel:
    """A masked-context model that starts as the video model: what it is told in addition counts zero."""
    channels = video.config.in_channels
    options = {name: value for name, value in video.config.items() if not name.startswith("_")}
    model = VidRDUNet3DModel(**{**options, "in_channels": 2 * channels + 1})
    state = dict(video.state_dict())
    widened = torch.zeros_like(model.conv_in.weight)
    widened[:, :channels] = state["conv_in.weight"]
    state["conv_in.weight"] = widened
    model.load_state_dict(state)
    return model


def masked_context(latents: torch.Tensor, given: Sequence[int]) -> torch.Tensor:
    """What the model is told: `[B, C + 1, F, h, w]`, latents where they are given, then the mask.

    Args:
        latents: `[B, C, F, h, w]`; only frames `given` are read.
    """
    mask = torch.zeros_like(latents[:, :1])
    mask[:, :, list(given)] = 1
    return torch.cat([latents * mask, mask], dim=1)


class ModelInterpolator:
    """Interpolates with a masked-context model.

    Args:
        unet: made by `interpolation_unet` and trained.
        encode, decode: frames to latents `[1, C, F, h, w]` and back to `[1, F, 3, H, W]` in [0, 1]
            (`VidRDPipeline.encode_pictures`, `decode_latents`).
        scheduler: of the video model. states: text, `[1, L, J]`.
        steps: of the sampler.
    """

    def __init__(
        self,
        unet: VidRDUNet3DModel,
        encode: Callable[[Sequence[Image.Image], int, int], torch.Tensor],
        decode: Callable[[torch.Tensor], torch.Tensor],
        scheduler: Any,
        states: torch.Tensor,
        steps: int = 10,
    ) -> None:
        self.unet, self.encode, self.decode = unet, encode, decode
        self.scheduler = type(scheduler).from_config(scheduler.config)
        self.states, self.steps = states, steps

    def __call__(self, frames: Sequence[Image.Image], factor: int) -> list[Image.Image]:
        """n frames become (n - 1) factor + 1; the given ones stay as they are."""
        check_factor(frames, factor)
        return list(self.stream(frames, factor))

    @torch.no_grad()
    def stream(self, frames: Iterable[Image.Image], factor: int) -> Iterator[Image.Image]:
        """The same of frames that come one by one, with one window of them in memory; one stays alone."""
        gaps = (WINDOW - 1) // factor  # that one window fills
        window: list[Image.Image] = []
        first = 0
        for frame in frames:
            window.append(frame)
            if len(window) > gaps:
                yield from self._window(window, factor, first)
                window, first = window[-1:], first + gaps
        if len(window) > 1:
            yield from self._window(window, factor, first)
        if window:
            yield window[-1].convert("RGB")

    def _window(self, frames: Sequence[Image.Image], factor: int, seed: int) -> Iterator[Image.Image]:
        """Given frames and those behind them, without the last one; a window may be short."""
        gaps = (WINDOW - 1) // factor
        width, height = frames[0].size
        keys = [*frames, *[frames[-1]] * (gaps + 1 - len(frames))]
        pixels = self.decode(self._fill(self.encode(keys, height, width), factor, seed))[0]
        for gap, frame in enumerate(frames[:-1]):
            yield frame.convert("RGB")
            yield from (_picture(pixels[gap * factor + step].cpu()) for step in range(1, factor))

    def _fill(self, keys: torch.Tensor, factor: int, seed: int) -> torch.Tensor:
        """Latents of a whole window from those of its given frames."""
        given = list(range(0, WINDOW, factor))
        whole = keys.new_zeros(*keys.shape[:2], WINDOW, *keys.shape[3:])
        whole[:, :, given] = keys
        context = masked_context(whole, given)
        generator = torch.Generator().manual_seed(seed)
        self.scheduler.set_timesteps(self.steps, device=keys.device)
        noise = torch.randn(whole.shape, generator=generator).to(whole)
        x = noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        scale = getattr(self.scheduler, "scale_model_input", lambda sample, _: sample)
        for timestep in self.scheduler.timesteps:
            told = torch.cat([scale(x, timestep), context], dim=1).to(self.unet.dtype)
            answer = self.unet(told, timestep, self.states.to(self.unet.dtype)).sample.to(x.dtype)
            x = self.scheduler.step(answer, timestep, x).prev_sample
        x[:, :, given] = keys
        return x


def psnr(frames: Sequence[Image.Image], truth: Sequence[Image.Image]) -> float:
    """Peak signal-to-noise ratio over all pixels, in dB."""
    error = (to_frames(frames) - to_frames(truth)).square().mean()
    return float(-10 * math.log10(max(float(error), 1e-10)))
