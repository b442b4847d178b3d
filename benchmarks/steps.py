"""One denoising step: stock FLUX forward against Scale-DiT's, same weights, dtype, text and size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from benchmarks.proof import NotProven, require_agreement, require_green
from benchmarks.timing import extra_mib, interleaved
from pipelines.scale_dit.guided_stage import SequenceBuilder
from pipelines.scale_dit.high_res import HighResOptions
from pipelines.scale_dit.transformer_scale_dit import denoise

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "weights" / "storybook-flux" / "transformer"
TEXT = 64
_TOKEN_PX, _RATIO = 16, 4


def step_table(side_px: int, dtype: torch.dtype, rounds: int, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Seconds of one forward pass over a picture of `side_px` squared, stock and ours.

    The guide is encoded once per stage, as in the pipeline, and stands beside.

    Raises:
        NotProven: the op's tests are red, the attention of this very stage is wrong, or the two forwards
            disagree where they must be equal (no guide, dense attention).
    """
    require_green()
    model: Any = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=dtype).eval()
    side, low = side_px // _TOKEN_PX, side_px // _TOKEN_PX // _RATIO
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    channels, config = model.config.in_channels, model.config
    image, guide = normal(1, side * side, channels), normal(1, low * low, channels)
    text, pooled = normal(1, TEXT, config.joint_attention_dim), normal(1, config.pooled_projection_dim)
    time = torch.full((1,), 0.5, dtype=dtype)
    builder = SequenceBuilder(model, HighResOptions(), None, "auto")
    with torch.no_grad():
        _require_same_forward(model, builder, (text, pooled, time), normal(1, 64, channels))
        sequence = builder.guided(guide, (side, side), (low, low), [pooled], None)
    layout = HighResOptions().layout((side, side), (low, low))
    if layout is None:
        raise ValueError(f"a side of {side_px} px is painted densely; there is nothing to compare")
    shape = (1, layout.length, config.num_attention_heads, config.attention_head_dim)
    query, key, value = (normal(*shape) for _ in range(3))
    require_agreement((query[:, : layout.image], key, value), layout)
    ids = builder.first((side, side), torch.device("cpu")).ids
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: denoise(
            model, image, text, pooled, time,
            image_ids=sequence.ids, attend=sequence.attend(TEXT), guide=sequence.guide,
        ),
        "stock": lambda: _stock(model, image, text, pooled, time, ids),
        "guide, once per stage": lambda: builder.guided(guide, (side, side), (low, low), [pooled], None),
    }  # fmt: skip
    with torch.no_grad():
        memory = {name: extra_mib(call) for name, call in calls.items()}
    timings = interleaved(calls, rounds, is_warm=True)
    return [
        {
            "form": name,
            "side_px": side_px,
            "dtype": str(dtype).removeprefix("torch."),
            "wall_s": round(timing.wall_s, 2),
            "busy_s": round(timing.busy_s, 2),
            "vs_stock": round(timings["stock"].busy_s / timing.busy_s, 2),
            "extra_mib": memory[name],
        }
        for name, timing in timings.items()
    ]


def _stock(model: Any, image: Tensor, text: Tensor, pooled: Tensor, time: Tensor, ids: Tensor) -> Tensor:
    return model(
        hidden_states=image,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=time,
        img_ids=ids,
        txt_ids=ids.new_zeros(text.shape[1], ids.shape[1]),
        return_dict=False,
    )[0]


def _require_same_forward(
    model: Any, builder: SequenceBuilder, conditions: tuple[Tensor, Tensor, Tensor], image: Tensor
) -> None:
    text, pooled, time = conditions
    first = builder.first((8, 8), torch.device("cpu"))
    ours = denoise(
        model, image, text, pooled, time, image_ids=first.ids, attend=first.attend(text.shape[1])
    ).float()
    stock = _stock(model, image, text, pooled, time, first.ids).float()
    error = float((ours - stock).norm() / stock.norm())
    allowed = 1e-4 if image.dtype == torch.float32 else 3e-2
    if not error <= allowed:
        raise NotProven(f"our forward differs from diffusers' by {error:.1e}, allowed {allowed:.0e}")
