"""Each exact speed-up on and off in one run, with its error: `python -m pipelines.flextok.speed`.

`--random` measures random weights at Storybook's sizes: neither time nor error needs trained ones.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from pipelines.flextok.flow_sampler import FlowOptions
from pipelines.flextok.token_sampling import TokenSampling


@dataclass(frozen=True)
class Comparison:
    """Seconds without and with a speed-up, and the largest difference of the results.

    Attributes:
        off_cpu_s, on_cpu_s: processor time of all threads, which other work on the machine changes less.
    """

    name: str
    off_s: float
    on_s: float
    off_cpu_s: float
    on_cpu_s: float
    error: float

    @property
    def ratio(self) -> float:
        return self.off_s / self.on_s

    @property
    def cpu_ratio(self) -> float:
        return self.off_cpu_s / self.on_cpu_s

    def as_dict(self) -> dict[str, Any]:
        figures = {**vars(self), "ratio": self.ratio, "cpu_ratio": self.cpu_ratio}
        figures.pop("name")
        return {"name": self.name, **{key: float(f"{value:.4g}") for key, value in figures.items()}}


def compare(name: str, off: Callable[[], Any], on: Callable[[], Any], repeats: int = 3) -> Comparison:
    """Run both in turn, `repeats` times each, and take the fastest of each."""
    best, cpu, results = [float("inf")] * 2, [float("inf")] * 2, [torch.empty(0)] * 2
    for _ in range(repeats):
        for side, work in enumerate((off, on)):
            began, began_cpu = time.perf_counter(), time.process_time()
            results[side] = work()
            best[side] = min(best[side], time.perf_counter() - began)
            cpu[side] = min(cpu[side], time.process_time() - began_cpu)
    error = float((results[0].float() - results[1].float()).abs().max())
    return Comparison(name, best[0], best[1], cpu[0], cpu[1], error)


def compare_tokenizer(
    pipeline: Any, steps: int = 4, repeats: int = 3, counts: Sequence[int] = (1, 16, 64)
) -> Iterator[Comparison]:
    """Collapsed tokens, truncated encoding, modulation table, batched guidance, mixed token counts."""
    most = pipeline.num_tokens
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(1, 3, pipeline.side, pipeline.side, generator=generator)
    latents = pipeline.encode_latents(pictures * 2 - 1)
    ids = pipeline.tokenize(latents)
    noise = torch.randn(latents.shape, generator=generator)
    options = FlowOptions(steps=steps, guidance_scale=3.0, batch_guidance=False)

    def decoded(keep: int | Sequence[int], rows: int = 1, **switches: Any) -> torch.Tensor:
        chosen = replace(options, **switches)
        return pipeline.sample_latents(
            list(ids.expand(rows, -1)), keep, chosen, None, noise.expand(rows, -1, -1, -1)
        )

    def encoded(count: int, truncate: bool) -> torch.Tensor:
        return pipeline.encoder(latents, count, truncate)

    kept = [n for n in counts if n < most]
    for n in kept:
        apart, together = (partial(decoded, n, collapse_tokens=flag) for flag in (False, True))
        yield compare(f"collapsed tokens, k={n}", apart, together, repeats)
    for n in kept:
        full, cut = (partial(encoded, n, flag) for flag in (False, True))
        yield compare(f"truncated encoding, k={n}", full, cut, repeats)
    for name, switch, n in (
        ("modulation table", "use_modulation_table", kept[0]),
        ("guidance as one batch", "batch_guidance", kept[-1]),
    ):
        off, on = (partial(decoded, n, **{switch: flag}) for flag in (False, True))
        yield compare(name, off, on, repeats)
    yield compare(
        "mixed token counts as one batch",
        lambda: torch.cat([decoded(n) for n in kept]),
        lambda: decoded(kept, rows=len(kept)),
        repeats,
    )


def compare_cache(pipeline: Any, prompts: Sequence[str], repeats: int = 1) -> Comparison:
    """Greedy generation of all tokens with and without kept keys and values, one picture per prompt."""
    sampling = TokenSampling(guidance_scale=2.0, temperature=0.0)

    def ids(use_cache: bool) -> torch.Tensor:
        keep = pipeline.num_tokens
        return pipeline.generate(prompts, keep=keep, sampling=sampling, use_cache=use_cache)

    pictures = f"{len(prompts)} picture{'s' * (len(prompts) > 1)}"
    name = f"key-value cache, {pipeline.num_tokens} tokens, {pictures}"
    return compare(name, lambda: ids(False), lambda: ids(True), repeats)


def random_generator(parts: Path) -> Any:
    """A `FlexARPipeline` of Storybook's sizes whose transformers have random weights.

    Args:
        parts: model folder with the autoencoder and the text encoder.
    """
    from transformers import T5EncoderModel, T5Tokenizer

    from pipelines.flextok.pipeline_flexar import FlexARPipeline
    from pipelines.flextok.publish import DEFAULT_GUIDANCE, DEFAULT_STEPS
    from pipelines.flextok.train_flexar import MODEL
    from pipelines.flextok.train_tokenizer import DECODER, ENCODER
    from pipelines.flextok.transformer_flexar import FlexARModel
    from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel
    from pipelines.shared_vae import open_vae

    text = T5EncoderModel.from_pretrained(parts / "text_encoder_2")
    encoder, decoder = FlexTokEncoderModel(**ENCODER), FlexTokDecoderModel(**DECODER)
    sizes = {"vocab_size": decoder.quantizer.num_codes, "num_tokens": decoder.config.num_registers}
    transformer = FlexARModel(**MODEL, **sizes, text_dim=text.config.d_model)
    generator = torch.Generator().manual_seed(0)
    for model in (encoder, decoder, transformer):
        for parameter in (p for p in model.eval().parameters() if p.requires_grad and p.ndim > 1):
            # zeros, as training starts with, would make every error 0
            parameter.data.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
    return FlexARPipeline(
        transformer,
        open_vae(parts).eval(),
        encoder,
        decoder,
        text.eval(),
        T5Tokenizer.from_pretrained(parts / "tokenizer_2"),
        default_steps=DEFAULT_STEPS,
        default_guidance=DEFAULT_GUIDANCE,
    )


def decode_seconds(pipeline: Any, counts: Sequence[int]) -> dict[int, float]:
    """Seconds of one whole decode with the model's own steps and guidance, per token count."""
    times = {}
    for count in counts:
        tokens = [torch.zeros(count, dtype=torch.long)]
        began = time.perf_counter()
        pipeline.decode(tokens, generator=torch.Generator().manual_seed(0))
        times[count] = time.perf_counter() - began
    return times


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.flextok.speed", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("assets/weights/storybook-flextok"))
    parser.add_argument("--random", action="store_true", help="random weights instead of the folder's")
    parser.add_argument(
        "--parts", type=Path, default=Path("assets/weights/storybook-flux"), help="for --random: other parts"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    from pipelines.flextok.pipeline_flexar import FlexARPipeline
    from pipelines.flextok.pipeline_flextok import FlexTokPipeline

    torch.set_num_threads(options.threads)
    generator = None
    if options.random:
        generator = random_generator(options.parts)
    elif (options.folder / "transformer").is_dir():
        generator = FlexARPipeline.from_pretrained(options.folder)
    pipeline = generator.flextok if generator else FlexTokPipeline.from_pretrained(options.folder)
    pipeline.set_progress_bar_config(disable=True)
    cached = (
        compare_cache(generator, ["a red ball in a meadow"] * pictures, options.repeats)
        for pictures in ((1, 4) if generator else ())
    )
    found = []
    for item in chain(compare_tokenizer(pipeline, repeats=options.repeats), cached):
        found.append(item)
        times_s = f"{item.off_s:8.3f} s -> {item.on_s:8.3f} s"
        ratios = f"{item.ratio:5.2f}x, processor {item.cpu_ratio:5.2f}x"
        print(f"{item.name:40} {times_s}  {ratios}  error {item.error:.1e}", flush=True)
    times = decode_seconds(pipeline, [n for n in (1, 16, 64, 256) if n <= pipeline.num_tokens])
    for count, seconds in times.items():
        print(f"decode, k={count:<3} {pipeline.config.default_steps} steps: {seconds:.2f} s")
    if options.out:
        figures = {"comparisons": [item.as_dict() for item in found], "decode_seconds": times}
        options.out.write_text(json.dumps({**figures, "threads": options.threads}, indent=2) + "\n")


if __name__ == "__main__":
    main()
