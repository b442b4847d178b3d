"""What a judge sees in pictures of pages, and how pictures as a whole compare: distance and diversity."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipelines.longalign.pages import Page
from pipelines.storybook.detector import Detections, detect
from pipelines.storybook.verify import Wanted, WantedObject, assign, place_right, verify

DIMENSIONS = 32  # principal directions of the drawings' features; two hundred pictures can't fill more


def attributes_present(seen: Detections, page: Page) -> dict[str, list[bool]]:
    """Which attributes that a page states its picture shows: kinds, colours, patterns, relation, place.

    A colour counts with its kind, a pattern (striped, dotted) with both; each object answers for one.
    """
    objects = page.wanted.objects
    kinds = assign(seen, [WantedObject(item.kind) for item in objects])
    coloured = assign(seen, [WantedObject(item.kind, item.colour) for item in objects])
    patterned = assign(seen, objects)
    patterns = [
        found is not None for found, item in zip(patterned, objects, strict=True) if item.pattern != "plain"
    ]
    answers = {
        "kind": [found is not None for found in kinds],
        "colour": [found is not None for found in coloured],
        "pattern": patterns,
        "place": [place_right(seen, page.scene.place)],
        "relation": [],
    }
    if page.relation is not None:
        first, second = (WantedObject(item.kind, item.colour) for item in objects[:2])
        answers["relation"] = [verify(seen, Wanted((first, second), relation=page.relation)).relation is True]
    return answers


@contextmanager
def _head_inputs(judge: Any) -> Iterator[list[Tensor]]:
    """Collect what the judge's head reads, averaged over the picture: `[B, F]` for each batch."""
    found: list[Tensor] = []

    def keep(_: Any, inputs: tuple[Tensor, ...]) -> None:
        found.append(torch.cat([part.float().mean((2, 3)) for part in inputs], dim=1).cpu())

    handle = judge.head.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def look(judge: Any, pictures: Sequence[Image.Image]) -> tuple[list[Detections], Tensor]:
    """Detections and features `[B, F]` of pictures, all of one size."""
    with _head_inputs(judge) as found:
        seen = detect(judge, pictures)
    return seen, torch.cat(found)


class FeatureSpace:
    """The leading principal directions of reference features, scaled to unit variance.

    Args:
        reference: features `[N, F]` of drawings, N of two hundred or more.
    """

    def __init__(self, reference: Tensor) -> None:
        self.mean = reference.double().mean(0)
        _, values, directions = torch.linalg.svd(reference.double() - self.mean, full_matrices=False)
        count = min(DIMENSIONS, len(reference) - 1)
        scale = values[:count] / max(1, len(reference) - 1) ** 0.5
        self.basis = directions[:count].T / scale.clamp(min=1e-6)

    def project(self, features: Tensor) -> Tensor:
        """`[N, F]` -> `[N, 32]`."""
        return (features.double() - self.mean) @ self.basis


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Distance of two sets of features `[N, D]` as Gaussians: means and covariances (arXiv:1706.08500)."""
    gap = (first.mean(0) - second.mean(0)).square().sum()
    one, two = (part.T.cov().view(part.shape[1], -1) for part in (first, second))
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ two @ root).clamp(min=0).sqrt().sum()
    return float(gap + one.trace() + two.trace() - 2 * cross)


def diversity(features: Tensor) -> float:
    """Mean distance between pictures of one prompt, `features` `[prompts, seeds, D]`, over all prompts."""
    seeds = features.shape[1]
    if seeds < 2:
        raise ValueError(f"diversity needs at least two seeds a prompt, got {seeds}")
    distances = torch.cdist(features, features).sum((1, 2)) / (seeds * (seeds - 1))
    return float(distances.mean())
