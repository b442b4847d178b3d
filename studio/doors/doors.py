"""All doors to `pipelines` in one value, so that tests put others in their place."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.crafts.selftests import Tester
from studio.doors.filming import PipelineFilmer
from studio.doors.judging import PipelineJudge
from studio.doors.kernels import PipelineTester
from studio.doors.metering import PipelineMeters
from studio.doors.reading import PipelineReader
from studio.doors.scoring import PipelineScorer
from studio.doors.seeing import PipelineLooker
from studio.doors.tokenizing import PipelineTokenizer
from studio.films import Filmer
from studio.judging import Judge
from studio.metering import Meters
from studio.reading import Reader
from studio.scoring import Scorer
from studio.seeing import Looker
from studio.tokens import Tokenizer


@dataclass(frozen=True)
class Doors:
    """What the studio reaches besides painting; each imports its side when first needed.

    Args:
        looker: Looks at pictures.
        reader: Reads what prompts say about space.
        judge: Holds pictures against prompts.
        scorer: Holds them against each sentence.
        tester: Tests the attention kernels.
        tokenizer: Turns pictures into tokens and back.
        filmer: Makes videos.
        meters: Measure prompts and seams.
    """

    looker: Looker = field(default_factory=PipelineLooker)
    reader: Reader = field(default_factory=PipelineReader)
    judge: Judge = field(default_factory=PipelineJudge)
    scorer: Scorer = field(default_factory=PipelineScorer)
    tester: Tester = field(default_factory=PipelineTester)
    tokenizer: Tokenizer = field(default_factory=PipelineTokenizer)
    filmer: Filmer = field(default_factory=PipelineFilmer)
    meters: Meters = field(default_factory=PipelineMeters)
