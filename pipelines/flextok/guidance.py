"""Two ways to lean on a condition: classifier-free guidance, and adaptive projected ("norm") guidance.

Sources: arXiv 2207.12598 (CFG); arXiv 2410.02416 (APG: negative momentum, bounded norm, orthogonal part).
"""

from dataclasses import dataclass, field

import torch


def classifier_free(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """`unconditional + scale * (conditional - unconditional)`."""
    return unconditional + scale * (conditional - unconditional)


@dataclass
class NormGuidance:
    """Guidance that bounds the step and keeps only what is orthogonal to the conditional prediction.

    Holds the running difference of one sampling run: make a new one for each.

    Attributes:
        eta: share of the parallel part that is kept. Default: 0.
        norm_threshold: largest norm of the difference per picture; 0 or less: unbounded. Default: 2.5.
        momentum: weight of the difference before; None: no memory. Default: -0.5.
    """

    eta: float = 0.0
    norm_threshold: float = 2.5
    momentum: float | None = -0.5
    _sum: torch.Tensor | None = field(default=None, repr=False)

    def __call__(self, conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
        """Guided prediction `[B, C, H, W]`; norms and projection go over all but the first axis."""
        difference = conditional - unconditional
        if self.momentum is not None:
            if self._sum is not None:
                difference = difference + self.momentum * self._sum
            self._sum = difference  # the raw sum: rescaling does not feed back
        axes = tuple(range(1, difference.ndim))
        if self.norm_threshold > 0:
            norm = torch.linalg.vector_norm(difference, dim=axes, keepdim=True)
            difference = difference * (self.norm_threshold / norm).clamp(max=1.0)
        exact, onto = difference.double(), conditional.double()
        onto = onto / torch.linalg.vector_norm(onto, dim=axes, keepdim=True).clamp(min=1e-12)
        parallel = (exact * onto).sum(dim=axes, keepdim=True) * onto
        update = (exact - parallel + self.eta * parallel).to(conditional.dtype)
        return conditional + (scale - 1) * update
