"""The loop over calls and clips, with denoisers that can be computed by hand."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from pipelines.vidrd.clip_loop import ClipLoop, ClipPlan, Step, Stopped, ending_from
from pipelines.vidrd.handover import Handover
from pipelines.vidrd.noise import SeededNoise
from pipelines.vidrd.trajectory import Guide, Trajectory, head_guide, made_up_trajectory, starting_latents
from tests.pipelines.vidrd.conftest import ddim

SHAPE = (1, 2, 8, 3, 3)
N = SHAPE[2]


class Wobbly:
    """Mixes neighbouring frames; remembers what it was given."""

    temporal_ratio = 1

    def __init__(self):
        self.given = []

    def predict(self, x, timestep, condition):
        self.given.append(x.clone())
        return 0.4 * x + 0.2 * (x.roll(1, 2) + x.roll(-1, 2)) + 0.1 * condition


def loop_of(scheduler=None, steps=10, seed=5, report=None):
    denoiser = Wobbly()
    return denoiser, ClipLoop(
        denoiser, scheduler or ddim(), steps, SeededNoise(SHAPE, (seed,)), report=report
    )


def plan(index, handover, **options):
    return ClipPlan(index, handover, handover, lambda call: 1.0, **options)


@pytest.mark.parametrize("order", ["chronological", "mirror"])
def test_a_new_clip_begins_with_the_old_ones_noise_and_is_guided_in_stages(order):
    handover = Handover(4, 1.0, 0.4, order)
    denoiser, loop = loop_of()
    first = loop.film(plan(0, handover))
    second = loop.film(plan(1, handover), first.trajectory)
    old, new = torch.stack(denoiser.given[:10]), torch.stack(denoiser.given[10:])
    sources = handover.sources(N)
    for frame, steps in enumerate([4, 3, 2, 1]):
        for call in range(10):
            same = new[call, :, :, frame].equal(old[call, :, :, sources[frame]])
            assert same == (call < steps), (frame, call)
    fresh = SeededNoise(SHAPE, (5,)).fresh(1)
    mixed = 0.5**0.5 * (old[0][:, :, sources] + fresh)
    torch.testing.assert_close(new[0][:, :, 4:], mixed[:, :, 4:], rtol=1e-5, atol=1e-6)
    assert second.shown() == ((4, 8) if order == "chronological" else (0, 8))
    assert first.shown() == (0, 8)


@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler()])
def test_clean_frames_stand_in_every_call_and_their_times_say_so(scheduler):
    handover = Handover(3, clean=True)
    denoiser, loop = loop_of(scheduler)
    times = []
    predict = denoiser.predict
    denoiser.predict = lambda x, t, condition: times.append(t) or predict(x, t, condition)
    first = loop.film(plan(0, handover))
    second = loop.film(plan(1, handover), first.trajectory)
    given = first.latents[:, :, 5:]
    assert second.latents[:, :, :3].equal(given) and second.shown() == (3, 8)
    calls = len(loop.scheduler.timesteps)
    assert len(denoiser.given) == 2 * calls and all(time.ndim == 0 for time in times[:calls])
    for x, time, whole in zip(denoiser.given[calls:], times[calls:], loop.scheduler.timesteps, strict=True):
        assert x[:, :, :3].equal(given) and time.tolist() == [[0.0] * 3 + [float(whole)] * 5]
    # all noise is new: the old one holds where things were
    start = SeededNoise(SHAPE, (5,)).fresh(1)[:, :, 3:] * getattr(loop.scheduler, "init_noise_sigma", 1.0)
    scaled = getattr(loop.scheduler, "scale_model_input", lambda x, _: x)
    loop.prepare()
    assert denoiser.given[calls][:, :, 3:].equal(scaled(start, loop.scheduler.timesteps[0]))


def test_a_clean_loop_ends_where_it_began():
    handover = Handover(2, clean=True)
    _, loop = loop_of()
    first = loop.film(plan(0, handover, opens_loop=True))
    last = loop.film(
        plan(1, handover, closes_loop=True), first.trajectory, ending_from(first.opening, handover)
    )
    assert last.latents[:, :, 6:].equal(first.latents[:, :, :2]) and last.shown() == (2, 6)
    assert last.latents[:, :, :2].equal(first.latents[:, :, 6:])


def test_what_is_kept_does_not_grow_with_the_film():
    frame = SHAPE[1] * SHAPE[3] * SHAPE[4]
    handover = Handover(4, 4.0, 0.4)
    _, loop = loop_of(steps=50)
    previous, kept = None, []
    for number in range(20):
        previous = loop.film(plan(number, handover), previous).trajectory
        kept.append(previous.elements() / frame)
    assert set(kept) == {8 + 20 + 15 + 10 + 5}  # of 400 frame latents on the way


@pytest.mark.parametrize(
    "scheduler",
    [
        ddim(),
        DPMSolverMultistepScheduler(algorithm_type="dpmsolver++"),
        EulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_samplers_start_anew_for_every_clip(scheduler):
    _, loop = loop_of(scheduler, steps=4)
    once = loop.film(plan(0, Handover(2)))
    loop.film(plan(1, Handover(2)), once.trajectory)
    again = loop.film(plan(0, Handover(2)))
    assert once.latents.equal(again.latents) and once.latents.isfinite().all()
    # noise is at the sampler's own level
    assert once.trajectory.start.std() == pytest.approx(float(scheduler.init_noise_sigma) if hasattr(
        scheduler, "init_noise_sigma") else 1.0, rel=0.2)  # fmt: skip


def test_watchers_see_every_call_and_may_change_or_end_it():
    steps = []

    def watch(step: Step):
        steps.append((step.clip, step.call, step.calls, int(step.timestep)))
        assert step.denoised.shape == step.latents.shape and not step.denoised.equal(step.latents)
        step.latents = torch.zeros_like(step.latents)

    _, loop = loop_of(steps=3, report=watch)
    latents = loop.film(plan(2, Handover(0))).latents
    assert [step[:3] for step in steps] == [(2, 0, 3), (2, 1, 3), (2, 2, 3)] and not latents.any()
    assert [step[3] for step in steps] == [667, 334, 1]

    def end(step):
        raise Stopped

    with pytest.raises(Stopped):
        loop_of(steps=3, report=end)[1].film(plan(0, Handover(0)))


def test_the_estimate_of_a_flow_is_its_end():
    """For a velocity that is constant in time every estimate is the result itself."""

    class Straight(Wobbly):
        def predict(self, x, timestep, condition):
            return torch.full_like(x, 0.5)

    seen = []
    loop = ClipLoop(Straight(), FlowMatchEulerDiscreteScheduler(shift=1.0), 4, SeededNoise(SHAPE, (1,)),
                    report=lambda step: seen.append(step.denoised))  # fmt: skip
    latents = loop.film(plan(0, Handover(0))).latents
    for clean in seen:
        torch.testing.assert_close(clean, latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["chronological", "mirror"])
def test_the_last_clip_of_a_loop_ends_where_the_first_began(order):
    handover = Handover(3, 1.0, 1.0, order)
    denoiser, loop = loop_of(steps=6)
    first = loop.film(plan(0, handover, opens_loop=True))
    assert first.opening is not None
    last = loop.film(
        plan(1, handover, closes_loop=True), first.trajectory, ending_from(first.opening, handover)
    )
    old, new = torch.stack(denoiser.given[:6]), torch.stack(denoiser.given[6:])
    meets = [2, 1, 0] if order == "mirror" else [0, 1, 2]
    for place, frame in enumerate(meets):
        calls = 2 * (place + 1)  # the very last frame is guided at all six calls
        for call in range(calls):
            assert new[call, :, :, 5 + place].equal(old[call, :, :, frame])
    assert last.shown() == ((3, 5) if order == "chronological" else (0, 8))


def test_a_trajectory_kept_for_less_guidance_is_refused():
    _, loop = loop_of()
    clip = loop.film(plan(0, Handover(2, guidance=0.2)))
    assert len(head_guide(clip.trajectory, Handover(2, guidance=0.2), 10).steps) == 2
    for wanted in (Handover(2, guidance=0.5), Handover(3, guidance=0.2)):
        with pytest.raises(ValueError, match="kept for less guidance than overlap_frames"):
            head_guide(clip.trajectory, wanted, 10)


def test_full_overlap_wraps_around_only_where_the_released_code_is_wanted():
    previous, fresh = Trajectory(torch.randn(SHAPE)), torch.randn(SHAPE)
    handover = Handover(N, 1.0, 0.0, "mirror")
    assert starting_latents(previous, handover, fresh).equal(previous.start.flip(2))
    wrapped = starting_latents(previous, handover, fresh, as_published=True)
    torch.testing.assert_close(wrapped, 0.5**0.5 * (previous.start.flip(2) + fresh), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheduler", [ddim(), FlowMatchEulerDiscreteScheduler(shift=1.0)],
                         ids=["diffusion", "flow"])  # fmt: skip
def test_pictures_get_a_way_from_noise_with_one_noise_per_frame(scheduler):
    scheduler.set_timesteps(10)
    latents, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    made = made_up_trajectory(scheduler, latents, noise, [[7, 6], [7]])
    for call, frames in enumerate([[7, 6], [7]]):
        if hasattr(scheduler, "sigmas"):
            keep, level = 1 - scheduler.sigmas[call], scheduler.sigmas[call]
        else:
            product = scheduler.alphas_cumprod[scheduler.timesteps[call]]
            keep, level = product.sqrt(), (1 - product).sqrt()
        expected = keep * latents + level * noise
        torch.testing.assert_close(made.steps[call], expected[:, :, frames], rtol=1e-4, atol=1e-5)
        if call == 0:
            torch.testing.assert_close(made.start, expected, rtol=1e-4, atol=1e-5)


def test_guides_reach_the_frames_they_name():
    x = torch.zeros(SHAPE)
    ones = torch.ones(1, 2, 2, 3, 3)
    Guide([ones], at_end=True).apply(0, x)
    assert x[:, :, 6:].eq(1).all() and not x[:, :, :6].any()
    Guide([2 * ones]).apply(0, x)
    Guide([3 * ones]).apply(1, x)  # past its last call: nothing
    assert x[:, :, :2].eq(2).all() and not x[:, :, 2:6].any()
