"""Texts and seeds of a film: each text is encoded once, each video has a seed of its own."""

import hashlib
from collections.abc import Callable, Sequence

import torch

from pipelines.vidrd.denoiser import TextCondition
from pipelines.vidrd.film_plan import ClipOrder, FilmPlan


class Texts:
    """Encodes each text of a film once."""

    def __init__(self, encode: Callable[[Sequence[str]], torch.Tensor]) -> None:
        self.encode = encode
        self.known: dict[str, torch.Tensor] = {}  # text -> [L, J]

    def read(
        self, name: str, texts: str | Sequence[str] | None, embeds: torch.Tensor | None, repeats: int
    ) -> tuple[str, ...]:
        """One text per video; embeddings are named by their checksum and kept.

        Raises:
            ValueError: both or neither given, or not texts.
        """
        if (texts is None) == (embeds is None):
            raise ValueError(f"give either {name} or {name}_embeds")
        if repeats < 1:
            raise ValueError(f"num_videos_per_prompt is {repeats}; it must be at least 1")
        if embeds is not None:
            names = []
            for row in embeds:
                digest = hashlib.sha256(row.detach().float().cpu().numpy().tobytes()).hexdigest()
                names.append(f"embeddings {digest[:16]}")
                self.known[names[-1]] = row
            texts = names
        rows = [texts] if isinstance(texts, str) else list(texts or ())
        if not rows or not all(isinstance(text, str) for text in rows):
            raise ValueError(f"{name} must be a text or a list of texts, got {texts!r:.80}")
        return tuple(text for text in rows for _ in range(repeats))

    def read_negative(
        self,
        texts: str | Sequence[str] | None,
        embeds: torch.Tensor | None,
        prompts: tuple[str, ...],
        repeats: int,
    ) -> tuple[str, ...]:
        """One negative text per video. Default: empty.

        Raises:
            ValueError: another number than of prompts.
        """
        if texts is None and embeds is None:
            texts = ""
        if isinstance(texts, str):
            return (texts,) * len(prompts)
        negatives = self.read("negative_prompt", texts, embeds, repeats)
        if len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negative prompts were given for {len(prompts)} videos")
        return negatives

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """`[B, L, J]`."""
        for text in texts:
            if text not in self.known:
                self.known[text] = self.encode([text])[0]
        return torch.stack([self.known[text] for text in texts])

    def condition(
        self, plan: FilmPlan, orders: Sequence[ClipOrder], number: int, calls: int
    ) -> Callable[[int], TextCondition]:
        """What the denoiser reads at each call of a clip; a changed prompt fades in."""
        order = orders[number]
        is_guided = order.guidance_scale > 1
        negative = self.states(plan.negative_prompts) if is_guided else None
        asked = TextCondition(self.states(order.prompts), negative, order.guidance_scale)
        if not order.is_change or not plan.prompt_fade:
            return lambda call: asked
        before = TextCondition(self.states(orders[number - 1].prompts), negative, order.guidance_scale)
        length = plan.prompt_fade * calls
        return lambda call: asked if call + 1 >= length else asked.faded(before, (call + 1) / length)


def draw_seeds(
    generator: torch.Generator | list[torch.Generator] | None, count: int, as_published: bool = False
) -> tuple[int, ...]:
    """A seed for each video; one generator gives them all, a list one each.

    Raises:
        ValueError: another number of generators than videos.
    """
    if isinstance(generator, list):
        if len(generator) != count or as_published:
            needed = "one for all videos" if as_published else f"{count}"
            raise ValueError(f"{len(generator)} generators were given; needed: {needed}")
        return tuple(_one_seed(own) for own in generator)
    if as_published:  # the generator's first draw must be the first frame's noise
        return (0,) * count
    return tuple(_one_seed(generator) for _ in range(count))


def _one_seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(0, 2**62, (1,), generator=generator, device=device))
