"""A prompt cut where plain pipelines cut it, to be compared with the whole."""

from __future__ import annotations

from typing import Any


def cut_text(sketcher: Any, pipeline: Any, text: str) -> tuple[str, tuple[str, ...]]:
    """What the encoder that decides reads at once of a text, and a sentence about the cut where there is one.

    Args:
        sketcher: a Stable Diffusion pipeline: CLIP decides. None: `pipeline` does, with its T5.
    """
    from pipelines.longalign.conditioning import clip_window
    from pipelines.longalign.source_text import SourceText
    from pipelines.longalign.tokens import TokenReader

    if sketcher is not None:
        reader = TokenReader(sketcher.tokenizer, clip_window(sketcher.text_encoder, sketcher.tokenizer))
    else:
        reader = TokenReader(pipeline.tokenizer_2, pipeline.text_limit)
    (run,) = reader.read([SourceText.plain(text)])
    if len(run) <= reader.room:
        return text, ()
    remark = f"Only the first {reader.room} of the prompt's {len(run)} tokens were read, as it was asked for."
    return text[: run.ends[reader.room - 1]], (remark,)
