"""Noise of films: shared and progressive, what a new clip starts from, how long its frames are guided."""

import pytest
import torch

from pipelines.vidrd.handover import Handover, guided_steps
from pipelines.vidrd.noise import mixed_noise, noise_shares, progressive_noise
from pipelines.vidrd.trajectory import Trajectory, starting_latents
from tests.parity.vidrd.recorded import discover


def ours(name, recorded):
    """What our functions give for a recorded tensor; None for those that are only put in."""
    kind, *words = name.split(".", 2)
    if kind not in ("progressive", "mixed", "ext_init"):
        return None
    alpha = float(name.split("alpha")[1])
    if kind == "ext_init":
        handover = Handover(int(words[0].removeprefix("M")), alpha, 0.0, "mirror")
        previous = Trajectory(recorded["prev_init"])
        return starting_latents(previous, handover, recorded["fresh"], as_published=True)
    as_published = {"official": True, "unitvar": False}[words[0]]
    if kind == "progressive":
        return progressive_noise(recorded["base.progressive"], alpha, as_published)
    shared, own = recorded["base.mixed_shared"], recorded["base.mixed_indiv"]
    return mixed_noise(shared, own, alpha, as_published)


@pytest.mark.parametrize("case", discover("noise_"))
def test_noise(case):
    record, recorded = case.json, case.tensors()
    compared = 0
    for name, expected in recorded.items():
        made = ours(name, recorded)
        if made is not None:
            torch.testing.assert_close(made, expected, **record["tolerance"])
            compared += 1
    assert compared >= 3 * len(record["coefficients"])
    for entry in record["coefficients"]:
        assert noise_shares(entry["alpha"]) == pytest.approx((entry["pns_keep"], entry["pns_fresh_std"]))
    assert record["staged_guidance"]
    for entry in record["staged_guidance"]:
        assert guided_steps(entry["T"], entry["M"], entry["beta"]) == entry["guided_steps"]
