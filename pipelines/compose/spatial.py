"""CoMPaSS among the other families: its weights before their adapters, and where the tokens of a page stand.

Weights trained with TENOR know the positions of one text, 0 to 76 for a UNet. A page is a block of texts that
were encoded one by one: each of them starts at 0 again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pipelines.longalign.plan import PromptPlan


def add_compass(pipeline: Any, folder: Path, compass: Path | None) -> None:
    """Put weights that were trained with TENOR into a model folder's pipeline, and TENOR with them.

    Adapters of other families come after it: a UNet is replaced as a whole.

    Args:
        compass: an adapter or UNet in the folder; the folder itself where its own weights know TENOR; None:
            the plain model.
    Raises:
        ValueError: they don't fit, or adapters are loaded already.
    """
    if compass is None:
        return
    if compass == folder:
        from pipelines.compass.support import enable_tenor

        enable_tenor(pipeline)
        return
    from pipelines.compass.weights_compass import load_compass

    load_compass(pipeline, compass)


def plan_positions(plans: Sequence[PromptPlan], max_len: int) -> Tensor:
    """Positions `[L]`, int64, 0 to `max_len` - 1, of the rows of one prompt.

    Each segment counts from 0. T5 rows beside CLIP rows, which hold the whole text, start again where a CLIP
    segment does. Padding goes on behind the last segment, as it does in training, and where the positions end
    it takes those behind that segment once more.

    Args:
        plans: of the prompt's branches, in the order of their rows.
        max_len: positions that the weights have seen.
    Raises:
        ValueError: no plan, or no position.
    """
    import torch

    if not plans or max_len < 1:
        raise ValueError(
            f"{len(plans)} plans and {max_len} positions were given; at least 1 of each is needed"
        )
    starts = [segment.start for segment in plans[0].segments]
    rows: list[int] = []
    for plan in plans:
        own = _segments(plan, starts if plan is not plans[0] else None)
        words = own[-1] + 1 if own else 0  # of the last segment
        room = max(max_len - words, 1)
        rest = range(plan.rows - len(own))
        rows += [place % max_len for place in own]
        rows += [min(words + step % room, max_len - 1) for step in rest]
    return torch.tensor(rows)


def _segments(plan: PromptPlan, starts: list[int] | None) -> list[int]:
    """Places of a plan's tokens within their segments; `starts`: characters at which a whole text is cut."""
    places: list[int] = []
    for segment in plan.segments:
        if starts is None or len(plan.segments) > 1:
            places += range(segment.num_rows)
            continue
        begun, place = 0, 0
        for character in segment.runs[0].starts[: segment.num_rows]:
            number = bisect_right(starts, character)
            place = place + 1 if number == begun and places else 0
            begun = number
            places.append(place)
    return places


@contextmanager
def tenor_positions(pipeline: Any, plans: Sequence[PromptPlan]) -> Iterator[None]:
    """Let a pipeline's TENOR, where it has one, count as the plans of a prompt say.

    A text in one piece that is no longer than those of the training counts as there, from 0 on.

    Args:
        pipeline: any diffusers pipeline with a UNet or a FLUX-type transformer.
        plans: of the one prompt that is painted next; none: it was encoded as in training.
    """
    from pipelines.compass.support import denoiser_of, tenor_support
    from pipelines.compass.tenor import find_tenor

    handle = find_tenor(denoiser_of(pipeline))
    if handle is None or not plans:
        yield
        return
    sidecar = tenor_support(pipeline).sidecar
    rows = sum(plan.rows for plan in plans)
    limit = sidecar.max_len if sidecar is not None else rows
    in_one = len(plans) == len(plans[0].segments) == 1 and rows <= limit
    before = handle.positions.custom
    handle.set_positions(before if in_one else plan_positions(plans, limit))
    try:
        yield
    finally:
        handle.set_positions(before)
