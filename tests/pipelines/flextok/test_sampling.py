"""Guidance, solvers, noise and token sampling on cases that can be worked out by hand."""

import pytest
import torch

from pipelines.flextok.flow_sampler import (
    FlowOptions,
    FlowSampler,
    add_noise,
    draw_noise,
    training_noise_level,
)
from pipelines.flextok.guidance import NormGuidance, classifier_free
from pipelines.flextok.token_sampling import TokenSampling


class LinearField:
    """dx/dt = x: the exact way from 1 to 0 multiplies by exp(-1)."""

    def __init__(self, options):
        self.options, self.times = options, options.times

    def __call__(self, x, index):
        return x


def travelled(solver, steps):
    sampler, x = (
        FlowSampler(LinearField(FlowOptions(steps=steps, solver=solver))),
        torch.ones(1, 1, 1, 1).double(),
    )
    for index in range(steps):
        x, denoised = sampler.step(x, index)
    return float(x), float(denoised)


def test_euler_by_hand():
    x, denoised = travelled("euler", 4)
    assert x == pytest.approx(0.75**4)
    assert denoised == pytest.approx(0.75**3 * (1 - 0.25))  # at time 1/4


@pytest.mark.parametrize("solver", ["heun", "multistep"])
def test_second_order_solvers_are_closer(solver):
    exact = float(torch.tensor(-1.0).double().exp())
    errors = [abs(travelled(solver, steps)[0] - exact) for steps in (8, 16)]
    assert errors[0] < abs(travelled("euler", 8)[0] - exact) / 3
    assert errors[1] < errors[0] / 2.5


def test_classifier_free_guidance_by_hand():
    assert float(classifier_free(torch.tensor(3.0), torch.tensor(1.0), 2.5)) == 6.0


def test_norm_guidance_by_hand():
    conditional, unconditional = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[1.0, -4.0]]]])
    # the difference (2, 4) has the part (0, 4) orthogonal to (3, 0)
    plain = NormGuidance(norm_threshold=0, momentum=None)
    assert plain(conditional, unconditional, 3.0).flatten().tolist() == [3.0, 8.0]
    kept = NormGuidance(eta=0.5, norm_threshold=0, momentum=None)
    assert kept(conditional, unconditional, 3.0).flatten().tolist() == [5.0, 8.0]
    bounded = NormGuidance(norm_threshold=1.0, momentum=None)
    expected = 2 * 4 / 20**0.5
    assert bounded(conditional, unconditional, 3.0).flatten().tolist() == pytest.approx([3.0, expected])
    running = NormGuidance(norm_threshold=0, momentum=-0.5)
    assert running(conditional, unconditional, 2.0).flatten().tolist() == [3.0, 4.0]
    assert running(conditional, unconditional, 2.0).flatten().tolist() == [3.0, 2.0]  # (2, 4) - (1, 2)
    assert running(conditional, unconditional, 2.0).flatten().tolist() == [3.0, 3.0]  # (2, 4) - (0.5, 1)


def test_equal_predictions_give_no_guidance_and_no_nan():
    x = torch.zeros(1, 2, 2, 2)
    assert torch.equal(NormGuidance()(x, x, 7.5), x)


def test_noise_is_drawn_picture_by_picture():
    shape = (3, 4, 8, 8)
    together = draw_noise(shape, torch.Generator().manual_seed(7), "cpu")
    source = torch.Generator().manual_seed(7)
    assert torch.equal(together, torch.cat([torch.randn(1, 4, 8, 8, generator=source) for _ in range(3)]))
    apart = draw_noise(shape, [torch.Generator().manual_seed(seed) for seed in (7, 8, 7)], "cpu")
    assert torch.equal(apart[0], apart[2]) and torch.equal(apart[0], together[0])
    with pytest.raises(ValueError, match="2 generators were given for 3"):
        draw_noise(shape, [torch.Generator(), torch.Generator()], "cpu")
    assert draw_noise(shape, None, "cpu").shape == shape


def test_noise_levels():
    u = torch.tensor([0.0, 0.5, 1.0])
    assert training_noise_level(u, 0.0).tolist() == [1.0, 0.5, 0.0]
    assert training_noise_level(u, 0.25).tolist() == pytest.approx([1.0, 0.5, 0.0])
    spread = [training_noise_level(torch.linspace(0, 1, 1001), m).std() for m in (0.0, 0.5)]
    assert spread[1] < spread[0]  # the middle is preferred
    clean, noise = torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
    assert add_noise(clean, noise, u).flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "1 to 1000"),
        ({"steps": 2.5}, "1 to 1000"),
        ({"solver": "rk45"}, "euler, heun, multistep"),
        ({"guidance_scale": float("nan")}, "finite"),
    ],
)
def test_bad_flow_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FlowOptions(**options)


def test_when_guidance_is_active():
    assert FlowOptions(guidance_scale=1.0).scale_at(0.5) is None
    assert FlowOptions(guidance_scale=3.0).scale_at(0.5) == 3.0
    interval = FlowOptions(guidance_scale=lambda t: 2.0 if t < 0.5 else None)
    assert (interval.scale_at(0.25), interval.scale_at(0.75)) == (2.0, None)
    flat = FlowOptions(guidance_scale=lambda t: 1.0, norm_guidance=False)
    assert flat.is_guided and flat.scale_at(0.5) is None
    assert FlowOptions(guidance_scale=lambda t: 1.0).scale_at(0.5) == 1.0  # its memory needs the difference


# tokens

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 99}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.5}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.49}, [1, 0, 0, 0]),
        ({"top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 3, "top_p": 0.6}, [0.625, 0.375, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
    ],
)
def test_probabilities_by_hand(options, expected):
    found = TokenSampling(None, **options).probabilities(LOGITS)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_guidance_comes_before_the_filters():
    conditional, null = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    found = TokenSampling(3.0, top_k=1).probabilities(conditional, null)
    assert found.tolist() == [[0.0, 1.0, 0.0]]


def test_rows_are_drawn_from_their_own_generators():
    logits = torch.zeros(2, 50)
    sampling = TokenSampling(None)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    first, second = sampling.draw(logits, None, generators).tolist()
    assert first == second
    shared = torch.Generator().manual_seed(3)
    one, other = sampling.draw(logits, None, [shared, shared]).tolist()
    assert one == first and other != one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
    ],
)
def test_bad_token_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenSampling(**options)
