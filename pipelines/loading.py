"""Open a saved pipeline folder without knowing which class wrote it."""

import json
from pathlib import Path
from typing import Any

import pipelines

# Class named in a folder's model_index.json -> our class that runs it. Folders that stock diffusers can open
# name a class of diffusers.
_RUNS_WITH = {
    "FluxPipeline": "ScaleDiTPipeline",
    "ScaleDiTPipeline": "ScaleDiTPipeline",
}


def load_pipeline(folder: str | Path, **options: Any) -> Any:
    """Load a pipeline of this project from a folder in diffusers layout.

    Args:
        folder: Local folder with a `model_index.json`.
        options: Passed on to the class's `from_pretrained` (for instance `dtype=torch.bfloat16`).
    Returns:
        The pipeline, an instance of one of the classes exported by `pipelines`.
    Raises:
        ValueError: The folder has no readable `model_index.json`, or it names a class that nothing here runs.
    """
    index = Path(folder) / "model_index.json"
    try:
        saved = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a pipeline folder: {index} cannot be read as one ({error!r})") from error
    if saved not in _RUNS_WITH:
        known = ", ".join(sorted(_RUNS_WITH))
        raise ValueError(f"{folder} was saved by {saved!r}; expected one of: {known}")
    return getattr(pipelines, _RUNS_WITH[saved]).from_pretrained(folder, **options)
