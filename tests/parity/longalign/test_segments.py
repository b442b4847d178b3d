"""Segments, ids and rows against those of the authors' script and the tokenizers it loads; weight syntax."""

import pytest

from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.planner import SegmentPlanner
from pipelines.longalign.prompt_weights import weighted_pieces
from pipelines.longalign.tokens import TokenReader
from tests.parity.longalign.vectors import RecordedTokenizer, every

OFFICIAL = PromptSettings(mode="official", overflow="truncate", strip=False)
CLIP_MARKS, CLIP_STOP = (49406, 49407), [269]


def check_rows(planner, prompt, recorded):
    """Ids of each segment, and what the block of 240 rows holds."""
    draft = planner.draft(prompt)
    reader = planner.readers[0]
    assert [list(reader.wrap(s.runs[0])) for s in draft.segments] == recorded["ids_unpadded"]
    assert [len(reader.kept(s.runs[0])) for s in draft.segments] == recorded["kept_per_segment"]
    kept = [reader.wrap(s.runs[0])[place] for s in draft.segments for place in reader.kept(s.runs[0])]
    assert kept == recorded["kept_ids_concat"]
    assert planner.needed_rows(draft) == recorded["kept_total"]
    for segment, is_cut, length in zip(
        draft.segments, recorded["truncated"], recorded["untruncated_len"], strict=True
    ):
        lost = any(cut.start >= segment.start and cut.end <= segment.end for cut in draft.cuts)
        assert lost == is_cut or length == reader.window + 1  # the added stop alone is no loss
    plan = planner.place(draft, 240)
    assert plan.rows - plan.used == recorded["pad_star_count_at_240"]
    assert recorded["kept_total"] - plan.used == recorded["dropped_at_240"]
    assert any([*recorded["truncated"], recorded["dropped_at_240"]]) or not plan.cuts
    assert plan.cuts or recorded["dropped_at_240"] <= 1


@every("a_segments")
def test_segments(case):
    for entry in case.record["cases"]:
        ids = [[5] if text else [] for text in entry["segments"]]
        one = RecordedTokenizer(ids, CLIP_MARKS, CLIP_STOP, CLIP_MARKS[1])
        draft = SegmentPlanner([TokenReader(one, 77)], OFFICIAL).draft(entry["prompt"])
        assert [segment.text for segment in draft.segments] == entry["segments"], entry["name"]


@every("a_segments")
def test_rows_with_the_ids_of_the_real_vocabulary(case):
    for entry in case.record["cases"]:
        recorded = entry["clip"]
        lengths = zip(recorded["ids_unpadded"], recorded["untruncated_len"], strict=True)
        texts = [ids[1:-1] + [ids[1]] * (length - len(ids)) for ids, length in lengths]
        tokenizer = RecordedTokenizer(texts, CLIP_MARKS, CLIP_STOP, CLIP_MARKS[1])
        check_rows(SegmentPlanner([TokenReader(tokenizer, 77)], OFFICIAL), entry["prompt"], recorded)


@every("a_segments")
def test_ids_of_the_reduced_vocabulary(case, mini_tokenizer):
    planner = SegmentPlanner([TokenReader(mini_tokenizer, 77)], OFFICIAL)
    for entry in case.record["cases"]:
        check_rows(planner, entry["prompt"], entry["mini"])


@every("h_weights")
def test_weights(case):
    for entry in case.record["cases"]:
        pieces = weighted_pieces(entry["text"])
        assert [text for text, _ in pieces] == [text for text, _ in entry["parsed"]], entry["text"]
        assert [w for _, w in pieces] == pytest.approx([w for _, w in entry["parsed"]], abs=1e-12), entry[
            "text"
        ]
