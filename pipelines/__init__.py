"""Generation pipelines. Importing this package is quick: each name brings in its module on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.compass.pipeline_compass import CompassPipeline
    from pipelines.flextok.pipeline_flexar import FlexARPipeline
    from pipelines.flextok.pipeline_flextok import FlexTokPipeline
    from pipelines.loading import load_pipeline
    from pipelines.longalign.pipeline_longalign import LongAlignPipeline
    from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline
    from pipelines.vidrd.pipeline_vidrd import VidRDPipeline

__all__ = [
    "CompassPipeline",
    "FlexARPipeline",
    "FlexTokPipeline",
    "LongAlignPipeline",
    "ScaleDiTPipeline",
    "VidRDPipeline",
    "load_pipeline",
]

# public name -> the module that defines it
_MODULES = {
    "CompassPipeline": "pipelines.compass.pipeline_compass",
    "FlexARPipeline": "pipelines.flextok.pipeline_flexar",
    "FlexTokPipeline": "pipelines.flextok.pipeline_flextok",
    "LongAlignPipeline": "pipelines.longalign.pipeline_longalign",
    "ScaleDiTPipeline": "pipelines.scale_dit.pipeline_scale_dit",
    "VidRDPipeline": "pipelines.vidrd.pipeline_vidrd",
    "load_pipeline": "pipelines.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access does not come through here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
