import json
from pathlib import Path
from typing import Any

import pytest

import pipelines
from pipelines import load_pipeline


class _Recorder:
    """Stands where the pipeline class does, to see what it is asked for."""

    @staticmethod
    def from_pretrained(folder: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        return folder, options


def _write_index(folder: Path, content: Any) -> Path:
    (folder / "model_index.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("saved", ["FluxPipeline", "ScaleDiTPipeline"])
def test_the_saved_class_chooses_ours_and_options_go_through(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(vars(pipelines), "ScaleDiTPipeline", _Recorder)
    folder = _write_index(tmp_path, {"_class_name": saved})
    assert load_pipeline(folder, local_files_only=True) == (folder, {"local_files_only": True})


@pytest.mark.parametrize("content", [{}, [], None, "text", {"_class": "FluxPipeline"}])
def test_an_index_without_a_class_is_named_in_the_error(content, tmp_path):
    with pytest.raises(ValueError, match=r"not a pipeline folder: .*model_index\.json"):
        load_pipeline(_write_index(tmp_path, content))


def test_a_folder_that_is_missing_or_not_json_is_no_pipeline_folder(tmp_path):
    with pytest.raises(ValueError, match="not a pipeline folder"):
        load_pipeline(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_bytes(b"\x80 not json")
    with pytest.raises(ValueError, match="not a pipeline folder"):
        load_pipeline(tmp_path)


def test_a_class_that_nothing_here_runs_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'KolorsPipeline'; expected one of: FluxPipeline, ScaleDiTPipeline"):
        load_pipeline(_write_index(tmp_path, {"_class_name": "KolorsPipeline"}))
