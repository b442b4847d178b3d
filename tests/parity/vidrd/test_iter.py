"""Whole extensions, clip after clip, against the authors' loop with a linear denoiser for the network."""

import diffusers
import pytest
import torch

from pipelines.vidrd.clip_loop import ClipLoop, ClipPlan
from pipelines.vidrd.handover import Handover, guided_steps
from pipelines.vidrd.noise import PublishedNoise
from tests.parity.vidrd.recorded import discover

ATOL = 2e-5


class LinearDenoiser:
    """The recorded stand-in: each frame sees its neighbours, the time and the mean of its text."""

    temporal_ratio = 1

    def __init__(self, recorded, guidance_scale):
        self.recorded, self.guidance_scale = recorded, guidance_scale
        self.given = []

    def answer(self, x, timestep, text):
        w = self.recorded
        nothing = torch.zeros_like(x[:, :, :1])
        before, after = torch.cat([nothing, x[:, :, :-1]], 2), torch.cat([x[:, :, 1:], nothing], 2)
        out = sum(
            torch.einsum("oi,bifhw->bofhw", w[name], part)
            for name, part in (("W0", x), ("Wprev", before), ("Wnext", after))
        )
        told = timestep / 1000 * w["bias"] + text.mean(1) @ w["Wctx"].T
        return out + told[:, :, None, None, None]

    def predict(self, x, timestep, condition):
        self.given.append(x.clone())
        if self.guidance_scale <= 1:
            return self.answer(x, timestep, condition)
        plain = self.answer(x, timestep, self.recorded["uncond"])
        return plain + self.guidance_scale * (self.answer(x, timestep, condition) - plain)


class RecordedNoise:
    def __init__(self, recorded):
        self.recorded = recorded

    def initial(self):
        return self.recorded["noise.init"]

    def fresh(self, clip):
        return self.recorded[f"noise.ext{clip}"]


def noise_of(options, recorded):
    if options.get("seed") is None:
        return RecordedNoise(recorded)
    shape = tuple(recorded["clip0.init"].shape)
    generator = torch.Generator("cpu").manual_seed(options["seed"])
    return PublishedNoise(shape, generator, options.get("noise_alpha", 0.0))


@pytest.mark.parametrize("case", discover("iter_"))
@torch.no_grad()
def test_extension(case):
    record, recorded = case.json, case.tensors()
    options, sampler = record["params"], dict(record["scheduler"])
    scheduler = getattr(diffusers, sampler.pop("cls"))(**sampler)
    handover = Handover(
        options["extend_overlap_frames"],
        options["extend_noise_recycle"],
        options["extend_denoise_guidance"],
        "mirror",
    )
    denoiser = LinearDenoiser(recorded, options["guidance_scale"])
    loop = ClipLoop(
        denoiser, scheduler, options["num_inference_steps"], noise_of(options, recorded), as_published=True
    )
    previous, clips = None, []
    for number in range(options["num_generated_clips"]):
        text = recorded.get("cond", recorded.get(f"cond{number}"))
        first = len(denoiser.given)
        clip = loop.film(ClipPlan(number, handover, handover, lambda call, text=text: text), previous)
        given = torch.stack(denoiser.given[first:])
        assert len(given) == options["num_inference_steps"]
        torch.testing.assert_close(given[0], recorded[f"clip{number}.init"], atol=ATOL, rtol=ATOL)
        if f"clip{number}.pre" in recorded:
            torch.testing.assert_close(given, recorded[f"clip{number}.pre"], atol=ATOL, rtol=ATOL)
        torch.testing.assert_close(clip.latents, recorded[f"clip{number}.final"], atol=ATOL, rtol=ATOL)
        assert clip.shown() == (0, options["num_frames"])  # the mirror order shows every frame
        previous = clip.trajectory
        clips.append(clip.latents)
    torch.testing.assert_close(torch.cat(clips, 2), recorded["video_latents"], atol=ATOL, rtol=ATOL)
    torch.testing.assert_close(scheduler.timesteps.float(), torch.tensor(record["timesteps"]).float())
    if "sigmas" in recorded:
        torch.testing.assert_close(scheduler.sigmas.float(), recorded["sigmas"])


@pytest.mark.parametrize("case", discover("iter_"))
def test_guided_steps(case):
    record = case.json
    options = record["params"]
    calls, overlap = options["num_inference_steps"], options["extend_overlap_frames"]
    steps = guided_steps(calls, overlap, options["extend_denoise_guidance"])
    steps += [0] * (options["num_frames"] - overlap)
    table = record.get("guided")
    if table is None:  # the derived case keeps its latents alone
        assert record["kind"] != "iterative_extension"
        return
    assert steps == table["steps_per_frame"]
    assert [[int(call < count) for count in steps] for call in range(calls)] == table["table"]
