"""Drawing the next token: guidance, temperature, top-k, top-p, in that order."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenSampling:
    """How the next token is drawn.

    Attributes:
        guidance_scale: `uncond + s * (cond - uncond)` on the logits; 1 or None: no guidance.
        temperature: divides the logits; 0: always the likeliest token.
        top_k: only so many of the likeliest; 0: all.
        top_p: only the likeliest that together reach this probability; 0: all.
    """

    guidance_scale: float | None = 3.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0

    def __post_init__(self) -> None:
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be finite")
        if not 0.0 <= self.temperature <= 100.0:
            raise ValueError(f"temperature is {self.temperature}; allowed: 0 to 100")
        if type(self.top_k) is not int or self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k!r}; allowed: whole numbers from 0 (off)")
        if not 0.0 <= self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}; allowed: 0 (off) to 1")

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale not in (None, 1.0)

    def guided(self, conditional: torch.Tensor, unconditional: torch.Tensor | None) -> torch.Tensor:
        """Logits `[..., V]` float32 after guidance."""
        if unconditional is None or self.guidance_scale is None:
            return conditional.float()
        unconditional = unconditional.float()
        return unconditional + self.guidance_scale * (conditional.float() - unconditional)

    def probabilities(
        self, conditional: torch.Tensor, unconditional: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Probabilities `[..., V]` of the next token from logits `[..., V]`."""
        logits = self.guided(conditional, unconditional)
        if self.temperature == 0.0:
            likeliest = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits).scatter(-1, likeliest, 1.0)
        logits = logits / self.temperature
        if self.top_k:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p:
            ordered, order = logits.sort(descending=True)
            over = ordered.softmax(-1).cumsum(-1) > self.top_p
            over = torch.cat([torch.zeros_like(over[..., :1]), over[..., :-1]], dim=-1)  # keep the one across
            logits = logits.masked_fill(torch.zeros_like(over).scatter(-1, order, over), -torch.inf)
        return logits.softmax(-1)

    def draw(
        self,
        conditional: torch.Tensor,
        unconditional: torch.Tensor | None,
        generators: list[torch.Generator | None],
    ) -> torch.Tensor:
        """Next ids `[B]` from logits `[B, V]`, each row from its own generator."""
        if self.temperature == 0.0:
            return self.guided(conditional, unconditional).argmax(-1)
        rows = self.probabilities(conditional, unconditional)
        drawn = []
        for row, generator in zip(rows, generators, strict=True):
            device = row.device if generator is None else generator.device
            drawn.append(torch.multinomial(row.to(device), 1, generator=generator).to(rows.device))
        return torch.cat(drawn)
