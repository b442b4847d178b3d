"""Optical flow, and what it says about a video: does it move, does it hold together, are there seams?

Shape letters: B pairs of frames, F frames, H and W pixels. Frames are floats in [0, 1].
Flow by the combined local-global method (A. Bruhn, J. Weickert, C. Schnoerr, 2005), coarse to fine; the ratio
of warp error to flow is MAWE of arXiv 2403.14773 (StreamingT2V), which a frozen video can't win.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

SMOOTHNESS = 2e-3
WINDOW = 2.0  # deviation in pixels of the local window
COARSEST = 12  # pixels of the shorter side at which the pyramid ends
WARPS, SWEEPS = 3, 12
STILL_PX = 0.05  # mean motion below which a video counts as frozen


def to_frames(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """`[F, 3, H, W]` in [0, 1]."""
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def optical_flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Where each pixel of `first` went: `[B, 2, H, W]` in pixels (x right, y down).

    Args:
        first, second: `[B, 3, H, W]`.
    """
    levels = max(0, int(math.log2(min(first.shape[-2:]) / COARSEST)))
    pyramid = [(first, second)]
    for _ in range(levels):
        pyramid.append(tuple(F.avg_pool2d(frame, 2, ceil_mode=True) for frame in pyramid[-1]))
    flow = first.new_zeros(len(first), 2, *pyramid[-1][0].shape[-2:])
    for one, other in reversed(pyramid):
        if flow.shape[-2:] != one.shape[-2:]:
            scale = one.shape[-1] / flow.shape[-1]
            flow = scale * F.interpolate(flow, one.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(WARPS):
            flow = _refine(one, other, flow)
    return flow


def _refine(first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """One linearisation around `flow`, solved by Jacobi sweeps."""
    moved = warp(second, flow)
    middle = 0.5 * (first + moved)
    dx = 0.5 * (_shift(middle, 0, 1) - _shift(middle, 0, -1))
    dy = 0.5 * (_shift(middle, 1, 0) - _shift(middle, -1, 0))
    dt = moved - first
    products = torch.stack([dx * dx, dx * dy, dy * dy, dx * dt, dy * dt], dim=1).sum(2)
    xx, xy, yy, xt, yt = _blur(products).unbind(1)
    u, v = flow.unbind(1)
    xt, yt = xt - xx * u - xy * v, yt - xy * u - yy * v  # right-hand sides for the whole flow
    weight = 4 * SMOOTHNESS
    for _ in range(SWEEPS):
        near_u, near_v = (weight * _around(part) for part in (u, v))
        u, v = (
            (near_u - xt - xy * v) / (weight + xx),
            (near_v - yt - xy * u) / (weight + yy),
        )
    flow = torch.stack([u, v], dim=1)
    return flow.clamp(-max(first.shape[-2:]), max(first.shape[-2:]))


def _shift(x: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """x[..., r + down, c + right], borders repeated."""
    padded = F.pad(x.flatten(0, -4), (1, 1, 1, 1), mode="replicate").unflatten(0, x.shape[:-3])
    height, width = x.shape[-2:]
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _around(x: torch.Tensor) -> torch.Tensor:
    """Mean of the four neighbours of `[B, H, W]`."""
    padded = F.pad(x[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return 0.25 * (padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:])


def _blur(x: torch.Tensor) -> torch.Tensor:
    """Gaussian window over `[B, C, H, W]`."""
    reach = math.ceil(2 * WINDOW)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / WINDOW) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (reach, reach, 0, 0), mode="replicate")
    x = F.conv2d(padded, kernel, groups=x.shape[1])
    return F.conv2d(
        F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=x.shape[1]
    )


def warp(frames: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Fetch `frames[B, C, H, W]` from where `flow` points; borders are repeated."""
    height, width = frames.shape[-2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    x = (columns + flow[:, 0] + 0.5) * (2 / width) - 1
    y = (rows + flow[:, 1] + 0.5) * (2 / height) - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class MotionReport:
    """How a video moves.

    Attributes:
        flow_px: mean length of the flow between neighbouring frames.
        warp_error: mean difference (0 to 1) after each frame was moved back along the flow, where nothing is
            covered or uncovered.
        mawe: warp error over flow; infinite for a frozen video.
        border_ratio: mean change at the borders of clips over the mean change inside; 1 without borders.
        turn_cosine: mean cosine between the mean flows before and after a border: -1 where motion runs back.
        scene_cuts: borders or frames whose change is over five times the median and over 0.1.
        drift: distance of the last clip's colours from the first clip's (half the L1 of histograms, 0 to 1).
    """

    flow_px: float
    warp_error: float
    mawe: float
    border_ratio: float
    turn_cosine: float
    scene_cuts: int
    drift: float

    @property
    def is_frozen(self) -> bool:
        return self.flow_px < STILL_PX


def measure_motion(clips: Sequence[Sequence[Image.Image]]) -> MotionReport:
    """Measure a video given clip by clip.

    Raises:
        ValueError: fewer than two frames.
    """
    pictures = [frame for clip in clips for frame in clip]
    if len(pictures) < 2:
        raise ValueError(f"motion needs at least 2 frames, got {len(pictures)}")
    frames = to_frames(pictures)
    borders = (
        np.cumsum([len(clip) for clip in clips])[:-1] - 1
    )  # the change behind this frame crosses a border
    change = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
    flow = optical_flow(frames[:-1], frames[1:])
    length = flow.square().sum(1).sqrt()
    error = _warp_error(frames, flow)
    at_border = torch.zeros(len(change), dtype=torch.bool)
    at_border[borders] = True
    inside = change[~at_border].mean() if not at_border.all() else change.mean()
    ratio = float(change[at_border].mean() / inside.clamp_min(1e-6)) if len(borders) else 1.0
    flow_px = float(length.mean())
    cuts = int(((change > 5 * change.median()) & (change > 0.1)).sum())
    return MotionReport(
        flow_px=flow_px,
        warp_error=error,
        mawe=error / flow_px if flow_px >= STILL_PX else math.inf,
        border_ratio=ratio,
        turn_cosine=_turn(flow, borders),
        scene_cuts=cuts,
        drift=_drift(to_frames(clips[0]), to_frames(clips[-1])),
    )


def _warp_error(frames: torch.Tensor, flow: torch.Tensor) -> float:
    back = optical_flow(frames[1:], frames[:-1])
    seen = (flow + warp(back, flow)).square().sum(1).sqrt() < 1.0 + 0.1 * flow.square().sum(1).sqrt()
    difference = (warp(frames[1:], flow) - frames[:-1]).abs().mean(1)
    return float((difference * seen).sum() / seen.sum().clamp_min(1))


def _turn(flow: torch.Tensor, borders: Iterable[int]) -> float:
    """Mean cosine of the flow of the moving pixels around each border, 1 where there is none."""
    cosines = []
    for border in borders:
        if 0 < border < len(flow) - 1:
            before, after = flow[border - 1], flow[border + 1]
            moving = (before.square().sum(0).sqrt() > 0.25) | (after.square().sum(0).sqrt() > 0.25)
            if moving.any():
                a, b = before[:, moving].mean(1), after[:, moving].mean(1)
                cosines.append(float(F.cosine_similarity(a, b, dim=0)))
    return sum(cosines) / len(cosines) if cosines else 1.0


def _drift(first: torch.Tensor, last: torch.Tensor) -> float:
    """Half the L1 distance between colour histograms (4 levels a channel)."""

    def histogram(frames: torch.Tensor) -> torch.Tensor:
        levels = (frames * 3.999).long()
        index = levels[:, 0] * 16 + levels[:, 1] * 4 + levels[:, 2]
        counts = torch.bincount(index.flatten(), minlength=64).float()
        return counts / counts.sum()

    return float(0.5 * (histogram(first) - histogram(last)).abs().sum())
