"""Each exact speed-up on and off in one run, with its error: `python -m pipelines.flextok.speed`."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.flextok.flow_sampler import FlowOptions
from pipelines.flextok.token_sampling import TokenSampling


@dataclass(frozen=True)
class Comparison:
    """Seconds without and with a speed-up, and the largest difference of the results."""

    name: str
    off_s: float
    on_s: float
    error: float

    @property
    def ratio(self) -> float:
        return self.off_s / self.on_s

    def as_dict(self) -> dict[str, Any]:
        figures = {"off_s": self.off_s, "on_s": self.on_s, "ratio": self.ratio, "error": self.error}
        return {"name": self.name, **{key: float(f"{value:.4g}") for key, value in figures.items()}}


def compare(name: str, off: Callable[[], Any], on: Callable[[], Any], repeats: int = 3) -> Comparison:
    """Run both in turn, `repeats` times each, and take the fastest of each."""
    best, results = [float("inf")] * 2, [torch.empty(0)] * 2
    for _ in range(repeats):
        for side, work in enumerate((off, on)):
            began = time.perf_counter()
            results[side] = work()
            best[side] = min(best[side], time.perf_counter() - began)
    error = float((results[0].float() - results[1].float()).abs().max())
    return Comparison(name, best[0], best[1], error)


def compare_tokenizer(
    pipeline: Any, steps: int = 4, repeats: int = 3, counts: Sequence[int] = (1, 16, 64)
) -> list[Comparison]:
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
    found = []
    for n in kept:
        apart, together = (partial(decoded, n, collapse_tokens=flag) for flag in (False, True))
        found.append(compare(f"collapsed tokens, k={n}", apart, together, repeats))
    for n in kept:
        full, cut = (partial(encoded, n, flag) for flag in (False, True))
        found.append(compare(f"truncated encoding, k={n}", full, cut, repeats))
    found.append(
        compare(
            "modulation table",
            lambda: decoded(kept[0], use_modulation_table=False),
            lambda: decoded(kept[0], use_modulation_table=True),
            repeats,
        )
    )
    found.append(
        compare(
            "guidance as one batch",
            lambda: decoded(kept[-1], batch_guidance=False),
            lambda: decoded(kept[-1], batch_guidance=True),
            repeats,
        )
    )
    found.append(
        compare(
            "mixed token counts as one batch",
            lambda: torch.cat([decoded(n) for n in kept]),
            lambda: decoded(kept, rows=len(kept)),
            repeats,
        )
    )
    return found


def compare_cache(pipeline: Any, condition: dict[str, Any], repeats: int = 1) -> Comparison:
    """Greedy generation of all tokens with and without kept keys and values."""
    sampling = TokenSampling(guidance_scale=2.0, temperature=0.0)

    def ids(use_cache: bool) -> torch.Tensor:
        return pipeline.generate(**condition, sampling=sampling, use_cache=use_cache)

    return compare(
        f"key-value cache, {pipeline.num_tokens} tokens", lambda: ids(False), lambda: ids(True), repeats
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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    from pipelines.flextok.pipeline_flexar import FlexARPipeline
    from pipelines.flextok.pipeline_flextok import FlexTokPipeline

    torch.set_num_threads(options.threads)
    pipeline = FlexTokPipeline.from_pretrained(options.folder)
    pipeline.set_progress_bar_config(disable=True)
    found = compare_tokenizer(pipeline, repeats=options.repeats)
    if (options.folder / "transformer").is_dir():
        generator = FlexARPipeline.from_pretrained(options.folder)
        found.append(compare_cache(generator, {"prompt": "a red ball in a meadow"}))
    for item in found:
        times_s = f"{item.off_s:8.3f} s -> {item.on_s:8.3f} s"
        print(f"{item.name:34} {times_s}  {item.ratio:5.2f}x  error {item.error:.1e}")
    times = decode_seconds(pipeline, [n for n in (1, 16, 64, 256) if n <= pipeline.num_tokens])
    for count, seconds in times.items():
        print(f"decode, k={count:<3} {pipeline.config.default_steps} steps: {seconds:.2f} s")
    if options.out:
        figures = {"comparisons": [item.as_dict() for item in found], "decode_seconds": times}
        options.out.write_text(json.dumps({**figures, "threads": options.threads}, indent=2) + "\n")


if __name__ == "__main__":
    main()
