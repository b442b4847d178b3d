"""All doors to `pipelines` in one value, so that tests put others in their place."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.crafts.selftests import Tester
from studio.doors.judging import PipelineJudge
from studio.doors.kernels import PipelineTester
from studio.doors.reading import PipelineReader
from studio.doors.seeing import PipelineLooker
from studio.judging import Judge
from studio.reading import Reader
from studio.seeing import Looker


@dataclass(frozen=True)
class Doors:
    """What the studio reaches besides painting; each imports its side when first needed.

    Args:
        looker: Looks at pictures.
        reader: Reads what prompts say about space.
        judge: Holds pictures against prompts.
        tester: Tests the attention kernels.
    """

    looker: Looker = field(default_factory=PipelineLooker)
    reader: Reader = field(default_factory=PipelineReader)
    judge: Judge = field(default_factory=PipelineJudge)
    tester: Tester = field(default_factory=PipelineTester)
