"""What the door to tokens says of a folder without loading it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio.doors.tokenizing import PipelineTokenizer


@pytest.mark.parametrize(
    ("index", "config", "drawn"),
    [
        ({"_class_name": "FlexARPipeline", "default_keep": 32}, {"num_tokens": 256}, 32),
        ({"_class_name": "FlexARPipeline", "default_keep": None}, {"num_tokens": 256}, 256),
        ({"_class_name": "FlexARPipeline"}, {"num_tokens": 256}, 256),
        ({"_class_name": "FlexARPipeline", "default_keep": 32}, None, 0),
        ({"_class_name": "FlexTokPipeline"}, None, 0),
        ([], {"num_tokens": 256}, 0),
    ],
)
def test_how_many_tokens_are_drawn_stands_in_the_folder(
    index: object, config: dict[str, int] | None, drawn: int, tmp_path: Path
) -> None:
    assert PipelineTokenizer().tokens_drawn(tmp_path) == 0
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    if config:
        (tmp_path / "transformer").mkdir()
        (tmp_path / "transformer/config.json").write_text(json.dumps(config))
    assert PipelineTokenizer().tokens_drawn(tmp_path) == drawn
