"""From noise to latents along the velocity field: uniform times from 1 to 0, three solvers, guidance.

Source: rectified flow, arXiv 2209.03003; `x_t = t * noise + (1 - t) * picture`, velocity `noise - picture`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipelines.flextok.guidance import NormGuidance, classifier_free
from pipelines.flextok.transformer_flextok import Condition, FlexTokDecoderModel, StepModulation

SOLVERS = ("euler", "heun", "multistep")
Scale = float | Callable[[float], float | None]


@dataclass(frozen=True)
class FlowOptions:
    """How latents are sampled.

    Attributes:
        steps: looks at the velocity field ("heun" takes nearly twice as many).
        guidance_scale: weight of the condition, or a function of the time in (0, 1]. 1 as a number switches
            guidance off; a function may return None for "not at this time".
        norm_guidance: adaptive projected guidance instead of the classifier-free kind.
        solver: "euler" (as in the paper), "heun" or "multistep" (two-step Adams-Bashforth).
        collapse_tokens: one token for all masked ones (exact, see `FlexTokDecoderModel.condition`).
        use_modulation_table: compute time modulations once for all steps (exact).
        batch_guidance: conditional and unconditional pass as one batch. Default: None, on accelerators only:
            apart, the unconditional pass is the shorter one when tokens are collapsed.
    """

    steps: int = 25
    guidance_scale: Scale = 7.5
    norm_guidance: bool = True
    solver: str = "euler"
    collapse_tokens: bool = True
    use_modulation_table: bool = True
    batch_guidance: bool | None = None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or not 1 <= self.steps <= 1000:
            raise ValueError(f"steps are {self.steps!r}; allowed: 1 to 1000")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}; allowed: {', '.join(SOLVERS)}")
        if not callable(self.guidance_scale) and not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be finite")

    @property
    def times(self) -> list[float]:
        """Times at which the field is looked at: 1, ..., 1 / steps."""
        return [index / self.steps for index in range(self.steps, 0, -1)]

    @property
    def is_guided(self) -> bool:
        return callable(self.guidance_scale) or self.guidance_scale != 1.0

    def scale_at(self, t: float) -> float | None:
        """The weight at a time; None: no guidance there."""
        if not self.is_guided:
            return None
        scale = self.guidance_scale(t) if callable(self.guidance_scale) else self.guidance_scale
        # with a running difference a weight of 1 still feeds the later steps
        return None if scale == 1.0 and not self.norm_guidance else scale


class VelocityField:
    """Guided velocity of a batch of pictures; what doesn't change between steps is computed once.

    Args:
        codes: `[B, K, len(levels)]` of the tokens. keep: how many of each picture's are used.
    """

    def __init__(
        self,
        decoder: FlexTokDecoderModel,
        codes: torch.Tensor,
        keep: Sequence[int],
        options: FlowOptions,
    ) -> None:
        self.decoder, self.options = decoder, options
        self.times = options.times
        count, collapse = len(keep), options.collapse_tokens
        on_accelerator = codes.device.type != "cpu"
        self._batched = on_accelerator if options.batch_guidance is None else options.batch_guidance
        self._condition = decoder.condition(codes, keep, collapse=collapse)
        self._null: Condition | None = None
        self._both: Condition | None = None
        if options.is_guided:
            # nothing of the tokens is left in a null condition: one count serves all
            self._null = decoder.condition(codes, [1] * count, [True] * count, collapse=collapse)
            if self._batched:
                twice = torch.cat([codes, codes])
                flags = [False] * count + [True] * count
                self._both = decoder.condition(twice, [*keep, *keep], flags, collapse=collapse)
        self._table = decoder.modulation_table(self.times) if options.use_modulation_table else None
        self._guidance = NormGuidance() if options.norm_guidance else classifier_free

    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Velocity `[B, C, H, W]` at `times[index]`."""
        t = self.times[index]
        scale = self.options.scale_at(t)
        if scale is None:
            return self._look(x, self._condition, index)
        if self._both is not None:
            conditional, unconditional = self._look(torch.cat([x, x]), self._both, index).chunk(2)
        else:
            assert self._null is not None  # there whenever guidance is on
            conditional, unconditional = (self._look(x, c, index) for c in (self._condition, self._null))
        return self._guidance(conditional, unconditional, scale)

    def _look(self, x: torch.Tensor, condition: Condition, index: int) -> torch.Tensor:
        modulation: StepModulation | None = None if self._table is None else self._table[index]
        timesteps = None
        if modulation is None:
            timesteps = torch.full((len(x),), self.times[index], device=x.device)
        return self.decoder(x, condition, timesteps, modulation)


class FlowSampler:
    """Walks from noise to latents, one step per call."""

    def __init__(self, field: VelocityField) -> None:
        self.field, self.steps = field, field.options.steps
        self._before: torch.Tensor | None = None

    def step(self, x: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents after step `index`, and the present estimate of the result, both `[B, C, H, W]`."""
        size, t = 1.0 / self.steps, self.field.times[index]
        velocity = self.field(x, index)
        denoised = x - t * velocity
        direction = velocity
        if self.field.options.solver == "heun" and index + 1 < self.steps:
            direction = (velocity + self.field(x - size * velocity, index + 1)) / 2
        elif self.field.options.solver == "multistep" and self._before is not None:
            direction = 1.5 * velocity - 0.5 * self._before
        self._before = velocity
        return x - size * direction, denoised


def draw_noise(
    shape: Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    device: torch.device | str,
) -> torch.Tensor:
    """Normal noise `[B, C, H, W]` float32, drawn picture by picture from one generator or from one each.

    Raises:
        ValueError: another number of generators than of pictures.
    """
    if generator is None or isinstance(generator, torch.Generator):
        generators = [generator] * shape[0]
    else:
        generators = list(generator)
    if len(generators) != shape[0]:
        raise ValueError(f"{len(generators)} generators were given for {shape[0]} pictures")
    rows = []
    for source in generators:
        where = device if source is None else source.device
        rows.append(torch.randn((1, *shape[1:]), generator=source, device=where, dtype=torch.float32))
    return torch.cat([row.to(device) for row in rows])


def training_noise_level(u: torch.Tensor, mode_scale: float) -> torch.Tensor:
    """Noise levels of uniform draws; a positive `mode_scale` prefers the middle (arXiv 2403.03206)."""
    return 1 - u - mode_scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """`level * noise + (1 - level) * latents` with one level per picture."""
    level = level[:, None, None, None]
    return level * noise + (1 - level) * latents
