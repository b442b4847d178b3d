"""SCOP's verdicts, relations, lines, crops and captions against those of the authors' code, exactly."""

import json

import numpy as np
import pytest

from pipelines.compass.scop import METADATA, run_scop
from pipelines.compass.scop_crops import caption, crop_box, rounded, with_article
from pipelines.compass.scop_rules import ScopParams, judge_pairs, scop_relations
from tests.parity.compass.recorded import recorded

CONSTRAINTS = (
    "visual_significance",
    "semantic_distinction",
    "spatial_clarity",
    "minimal_overlap",
    "size_balance",
)


def trimmed(line):
    """A line of metadata with its annotations cut to what was recorded."""
    record = json.loads(line)
    record["annots"] = [
        {key: item[key] for key in ("id", "bbox", "category_id")} for item in record["annots"]
    ]
    return record


@pytest.mark.parametrize("case", recorded("scop_filter", "json"))
def test_verdicts_and_relations_of_every_pair(case):
    data = case.json()
    boxes = {item["id"]: item for item in data["coco"]["annotations"]}
    images = {item["id"]: item for item in data["coco"]["images"]}
    assert data["runs"]
    for run in data["runs"]:
        params, pairs = ScopParams(**run["params"]), run["pairs"]
        ends = [[boxes[pair["ann_ids"][end]] for pair in pairs] for end in (0, 1)]
        first, second = (np.array([item["bbox"] for item in end], float) for end in ends)
        different = np.array([a["category_id"] != b["category_id"] for a, b in zip(*ends, strict=True)])
        size = tuple(
            np.array([images[pair["image_id"]][side] for pair in pairs], float)
            for side in ("width", "height")
        )
        verdicts = judge_pairs(first, second, different, size, params)
        for name in CONSTRAINTS:
            assert getattr(verdicts, name).tolist() == [pair[name] for pair in pairs], (run["name"], name)
        for row, pair in enumerate(pairs):
            large = [bool(end[row, 2] * end[row, 3] >= params.min_bbox_area) for end in (first, second)]
            assert large == pair["passes_min_area"]
            assert (all(large) and bool(verdicts.accepted[row])) == pair["accepted"]
            assert scop_relations(ends[0][row]["bbox"], ends[1][row]["bbox"]) == pair["relations"]


@pytest.mark.parametrize("case", recorded("scop_filter", "json"))
def test_lines_of_the_data_set(case, tmp_path):
    data = case.json()
    (tmp_path / "coco.json").write_text(json.dumps(data["coco"]))
    for run in data["runs"]:
        out = tmp_path / run["name"]
        report = run_scop(tmp_path / "coco.json", None, out, ScopParams(**run["params"]))
        assert report.accepted == run["num_valid_pairs"]
        text = (out / METADATA).read_text()
        if run["metadata_jsonl"] is not None:
            assert [trimmed(line) for line in text.splitlines()] == run["metadata_jsonl"]
        assert all(
            list(json.loads(line)) == ["seq", "file_name", "oros", "annots"] for line in text.splitlines()
        )


@pytest.mark.parametrize("case", recorded("scop_crop_caption", "json"))
def test_crops_and_captions(case):
    data = case.json()
    assert data["records"]
    for record in data["records"]:
        for scale, expected in record["crops"].items():
            box = crop_box(record["bboxes"], tuple(record["image_size"]), float(scale))
            assert box == pytest.approx(expected["box_float"], abs=1e-6)
            assert list(rounded(box)) == expected["box_int"]
        for wanted in record["captions"]:
            assert caption(wanted["oro"]) == wanted["caption"]
    for noun, expected in data.get("articles_inflect", {}).items():
        assert with_article(noun) == expected
