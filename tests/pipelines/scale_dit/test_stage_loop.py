"""Steps of second order: what they integrate exactly, and that uneven steps are counted with their sizes."""

import pytest
import torch

from pipelines.scale_dit.stage_loop import CarryOn


def integrate(levels, velocity, carry):
    x = torch.tensor(0.0)
    for step, (now, following) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        v = velocity(now)
        x = x + (following - now) * (carry(step, v) if carry else v)
    return float(x)


LEVELS = ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], [0.5, 0.47, 0.3, 0.22, 0.05, 0.0])


@pytest.mark.parametrize("levels", LEVELS)
def test_velocities_that_change_evenly_are_integrated_exactly_after_the_first_step(levels):
    """The first step knows one velocity only and errs as Euler does."""
    exact = -(levels[0] ** 2) / 2
    first = (levels[0] - levels[1]) ** 2 / 2  # what a left sum over v(t) = t misses there
    carried = integrate(levels, torch.tensor, CarryOn(levels))
    assert carried == pytest.approx(exact - first, abs=1e-6)
    assert abs(integrate(levels, torch.tensor, None) - exact) > 1.5 * first


def test_eight_carried_steps_beat_sixteen_of_euler():
    def velocity(level):
        return torch.sin(torch.tensor(5.0 * level))

    fine = torch.linspace(0.5, 0, 100_001, dtype=torch.float64).tolist()
    exact = integrate(fine, velocity, None)
    few, many = (torch.linspace(0.5, 0, steps + 1).tolist() for steps in (8, 16))
    carried = abs(integrate(few, velocity, CarryOn(few)) - exact)
    assert carried < abs(integrate(many, velocity, None) - exact)
