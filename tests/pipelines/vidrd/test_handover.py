"""How clips meet: orders, guided frames, and what is refused."""

import math

import pytest
import torch

from pipelines.vidrd.handover import Handover, closing_frames, closing_selection, guided_steps
from pipelines.vidrd.noise import (
    PublishedNoise,
    SeededNoise,
    clip_generator,
    mixed_noise,
    noise_shares,
    progressive_noise,
)

SHAPE = (2, 4, 5, 2, 3)


def test_guidance_ends_earlier_for_later_frames():
    assert guided_steps(50, 4, 0.4) == [20, 15, 10, 5]
    assert guided_steps(50, 4, 1.0) == [50, 38, 25, 13]
    assert guided_steps(50, 4, 0.0) == [0, 0, 0, 0]
    assert guided_steps(50, 0, 0.4) == []


def test_orders_say_where_each_frame_comes_from():
    mirror, forward = Handover(3, order="mirror"), Handover(3, order="chronological")
    assert mirror.sources(8) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert forward.sources(8) == [5, 6, 7, 0, 1, 2, 3, 4]  # the last three once more, then all others
    assert (mirror.dropped(), forward.dropped()) == (0, 3)
    assert Handover(4, guidance=0.4).selection(8, 10) == [[4, 5, 6, 7], [4, 5, 6], [4, 5], [4]]
    assert Handover(4, guidance=0.4, order="mirror").selection(8, 10)[0] == [7, 6, 5, 4]


def test_the_end_of_a_loop_meets_its_beginning():
    mirror, forward = Handover(3, guidance=1.0, order="mirror"), Handover(3, guidance=1.0)
    assert closing_frames(mirror) == [2, 1, 0] and closing_frames(forward) == [0, 1, 2]
    # the very last frame is guided longest
    assert closing_selection(mirror, 8, 3) == [[2, 1, 0], [1, 0], [0]]
    assert closing_selection(forward, 8, 3) == [[0, 1, 2], [1, 2], [2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": -1}, "overlap_frames is -1"),
        ({"recycle": -0.5}, "noise_recycle is -0.5"),
        ({"recycle": math.nan}, "noise_recycle is nan"),
        ({"guidance": 1.5}, r"denoise_guidance is 1.5; it must lie in \[0, 1\]"),
        ({"guidance": math.nan}, "denoise_guidance is nan"),
        ({"order": "backwards"}, "order is 'backwards'; it must be 'chronological' or 'mirror'"),
    ],
)
def test_bad_handovers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Handover(**options)


def test_clean_frames_are_for_weights_that_know_them():
    assert Handover().settled(True).clean and not Handover().settled(False).clean
    assert not Handover(order="mirror").settled(True).clean and not Handover(clean=False).settled(True).clean
    with pytest.raises(ValueError, match="these weights have not learned to go on from clean frames"):
        Handover(clean=True).settled(False)
    clean = Handover(4, clean=True)
    assert clean.selection(8, 10) == [] and closing_selection(clean, 8, 10) == []
    assert clean.guided_frames(3) == [4, 4, 4]


def test_a_clip_cannot_be_nothing_but_overlap():
    Handover(8, order="mirror").check(8)
    Handover(7).check(8)
    with pytest.raises(ValueError, match="overlap_frames is 8; chronological clips of 8 allow 0 to 7"):
        Handover(8).check(8)
    with pytest.raises(ValueError, match="mirror clips of 8 allow 0 to 8"):
        Handover(9, order="mirror").check(8)


def test_recycled_noise_keeps_unit_variance():
    assert noise_shares(0.0) == (0.0, 1.0) and noise_shares(math.inf) == (1.0, 0.0)
    for alpha in (0.3, 1.0, 4.0):
        keep, fresh = noise_shares(alpha)
        assert keep**2 + fresh**2 == pytest.approx(1.0) and keep / fresh == pytest.approx(alpha)
    draws, shared = torch.randn(1, 4, 60, 16, 16), torch.randn(1, 4, 1, 16, 16)
    for made in (progressive_noise(draws, 2.0), mixed_noise(shared, draws, 2.0)):
        assert made[:, :, 30:].std() == pytest.approx(1.0, abs=0.05)
        neighbours = (made[:, :, 1:] * made[:, :, :-1]).mean()
        assert neighbours == pytest.approx(noise_shares(2.0)[0] ** (1 if made is not shared else 2), abs=0.12)
    published = progressive_noise(draws, 2.0, as_published=True)
    assert published[:, :, 30:].std() == pytest.approx(
        1 / math.sqrt(5), abs=0.05
    )  # the released code loses it


def test_a_clips_noise_depends_on_its_seed_and_number_alone():
    noise = SeededNoise(SHAPE, (7, 8), {2: 100})
    assert noise.initial().equal(noise.fresh(0)) and not noise.fresh(0).equal(noise.fresh(1))
    alone = SeededNoise((1, *SHAPE[1:]), (8,))
    assert alone.fresh(1).equal(noise.fresh(1)[1:])
    assert noise.fresh(1).equal(noise.fresh(1))
    assert noise.fresh(2)[0].equal(torch.randn(SHAPE[1:], generator=clip_generator(100, 2)))
    assert noise.fresh(2)[1].equal(torch.randn(SHAPE[1:], generator=clip_generator(101, 2)))
    first = torch.zeros(SHAPE)
    assert SeededNoise(SHAPE, (7, 8), first=first).initial() is first
    with pytest.raises(ValueError, match=r"latents are \[1, 2\]; the first clip needs \[2, 4, 5, 2, 3\]"):
        SeededNoise(SHAPE, (7, 8), first=torch.zeros(1, 2))


def test_published_noise_is_drawn_frame_by_frame_and_then_clip_by_clip():
    generator = torch.Generator().manual_seed(3)
    frames = [torch.randn(2, 4, 1, 2, 3, generator=generator) for _ in range(5)]
    whole = torch.randn(SHAPE, generator=generator)
    noise = PublishedNoise(SHAPE, torch.Generator().manual_seed(3))
    assert noise.initial().equal(torch.cat(frames, 2)) and noise.fresh(1).equal(whole)
