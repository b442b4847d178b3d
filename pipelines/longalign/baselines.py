"""Other ways to hand a page to Stable Diffusion, to compare with: cut off, in chunks, a longer encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging

from pipelines.longalign.conditioning import clip_window
from pipelines.longalign.source_text import SourceText
from pipelines.longalign.text_encoders import CachedTextEncoder
from pipelines.longalign.tokens import TokenReader

Embeds = dict[str, torch.Tensor]


@torch.no_grad()
def encode_truncated(pipe: StableDiffusionPipeline, prompts: Sequence[str]) -> Embeds:
    """What the stock pipeline does: everything behind the encoder's window is lost.

    With a stretched tower in the pipeline (`long_clip.stretch_text_encoder`) the window is 248.
    """
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it would report every cut, which is the point here
    try:
        encode = StableDiffusionPipeline.encode_prompt
        embeds, negative = encode(pipe, list(prompts), pipe._execution_device, 1, True)
    finally:
        diffusers_logging.set_verbosity(verbosity)
    return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


@torch.no_grad()
def encode_chunks(pipe: Any, prompts: Sequence[str]) -> Embeds:
    """Chunks of 75 tokens, wherever they end, each encoded in a window of its own, all rows joined."""
    reader = TokenReader(pipe.tokenizer, clip_window(pipe.text_encoder, pipe.tokenizer))
    encoder = CachedTextEncoder(pipe.text_encoder, reader, device=lambda: pipe._execution_device)
    runs = reader.read([SourceText.plain(prompt) for prompt in prompts])
    room = reader.room
    count = max(1, max(-(-len(run) // room) for run in runs))
    chunks = [
        reader.wrap(run.part(first, first + room)) for run in runs for first in range(0, count * room, room)
    ]
    states = encoder.encode(chunks, reader.window)
    embeds = (
        torch.stack([answer.hidden for answer in states]).unflatten(0, (len(prompts), count)).flatten(1, 2)
    )
    blank = encoder.blank().repeat(count, 1).expand(len(prompts), -1, -1)
    return {"prompt_embeds": embeds, "negative_prompt_embeds": blank}
