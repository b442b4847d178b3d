"""Options of the stages after the first: each one acts, and the exact ones change nothing."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.scale_dit.high_res import (
    FLUX1_RELEASE,
    FLUX2_BASE_RELEASE,
    FLUX2_RELEASE,
    RADIUS,
    HighResOptions,
    guide_layout,
)
from pipelines.scale_dit.stages import Stage

PROMPT = "a red ball in a meadow"
DENSE, LOCAL = (128, 192), (544, 544)


def paint(pipeline, size=DENSE, *, seed=1, first_scale=None, **options):
    """Latents; options of `HighResOptions` go there, `first_scale` is the first stage's guidance."""
    high_res = {name: options.pop(name) for name in list(options) if hasattr(HighResOptions, name)}
    defaults = {"num_inference_steps": 2, "high_res_steps": 2, "output_type": "latent"}
    return pipeline(
        PROMPT, height=size[0], width=size[1], generator=torch.Generator().manual_seed(seed),
        guidance_scale=first_scale, high_res=HighResOptions(**high_res), **{**defaults, **options},
    ).images  # fmt: skip


@pytest.fixture(scope="module")
def usual(_pipeline):
    """Pictures with the default options."""
    return {size: paint(_pipeline, size) for size in (DENSE, LOCAL)}


@pytest.mark.parametrize(
    "options",
    [
        {"anchors": "official"},
        {"enlarge": "latents"},
        {"enlarge": "sharpened"},
        {"ntk_factor": 10.0},
        {"linear_factor": 0.5},
        {"guide": "reads_text"},
        {"guidance_scale": 4.0},
        {"low_frequencies": "cosine_decay"},
        {"low_frequencies": "cosine_shift"},
        {"low_frequencies": "constant"},
        {"low_frequencies": "constant_hp"},
    ],
    ids=str,
)
def test_every_option_changes_a_later_stage_and_never_the_first(pipeline, usual, options):
    changed = paint(pipeline, **options)
    assert changed.isfinite().all() and (changed - usual[DENSE]).abs().max() > 1e-4
    assert torch.equal(paint(pipeline, (64, 64), **options), paint(pipeline, (64, 64)))


def test_windows_alone_see_less_than_the_box(pipeline, usual):
    assert (paint(pipeline, LOCAL, attention="window") - usual[LOCAL]).abs().max() > 1e-4


@pytest.mark.parametrize("order", ["raster", "hilbert"])
def test_the_order_changes_no_exact_picture(pipeline, usual, order):
    torch.testing.assert_close(paint(pipeline, LOCAL, order=order), usual[LOCAL], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [DENSE, LOCAL])
def test_a_guide_that_runs_along_gives_the_same_picture_as_its_cache(pipeline, usual, size):
    along = paint(pipeline, size, guide="along")
    torch.testing.assert_close(along, usual[size], rtol=1e-4, atol=1e-4)
    assert not torch.equal(paint(pipeline, size, guide="reads_text"), along)


def test_a_full_pull_leads_to_the_enlarged_picture(pipeline):
    """At the first step "cosine_shift" replaces the velocity by the one that leads to the stage before."""
    low = paint(pipeline, (64, 64))
    pulled = paint(pipeline, (128, 128), high_res_steps=1, enlarge="latents", low_frequencies="cosine_shift")
    expected = F.interpolate(low, scale_factor=2, mode="bicubic", align_corners=False)
    torch.testing.assert_close(pulled, expected, rtol=1e-3, atol=1e-4)


def test_two_passes_push_a_later_stage_away_from_the_negative_prompt(pipeline, usual):
    same = paint(pipeline, first_scale=1.0, guidance_scale=5.0, negative_prompt=PROMPT)
    torch.testing.assert_close(same, paint(pipeline, first_scale=1.0), rtol=1e-3, atol=1e-4)
    other = paint(pipeline, first_scale=1.0, guidance_scale=5.0, negative_prompt="a blue cat")
    assert (other - same).abs().max() > 1e-3
    never = paint(pipeline, guidance_scale=5.0, guidance_interval=(0.9, 1.0))  # a stage starts at 0.5
    assert torch.equal(never, usual[DENSE])
    half = paint(pipeline, guidance_scale=5.0, guidance_interval=(0.0, 0.3))
    whole = paint(pipeline, guidance_scale=5.0)
    assert (half - usual[DENSE]).abs().max() > 1e-4 and (half - whole).abs().max() > 1e-4


def test_a_batch_with_two_passes_equals_single_pictures(pipeline):
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    prompts, avoided = [PROMPT, "a large blue striped cat in a room with a red car"], ["a star", ""]
    options = {"num_inference_steps": 1, "high_res_steps": 1, "output_type": "latent", "height": 128,
               "width": 128, "high_res": HighResOptions(guidance_scale=3.0)}  # fmt: skip
    both = pipeline(prompts, negative_prompt=avoided, generator=generators, **options).images
    for row, seed in enumerate((3, 4)):
        generator = torch.Generator().manual_seed(seed)
        alone = pipeline(prompts[row], negative_prompt=avoided[row], generator=generator, **options).images
        torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=2e-4)


def test_a_guidance_embedding_may_be_told_another_scale_later(build_parts):
    from pipelines import ScaleDiTPipeline

    pipeline = ScaleDiTPipeline(**build_parts(guidance_embeds=True))
    pipeline.set_progress_bar_config(disable=True)
    assert (paint(pipeline, guidance_scale=9.0) - paint(pipeline)).abs().max() > 1e-4
    assert torch.equal(paint(pipeline, guidance_scale=3.5), paint(pipeline))  # that of the first stage


def test_blocks_follow_the_layout_of_the_authors_kernel(pipeline):
    """Against the masked definition, with cache and without; text is padded to whole blocks."""
    options = {
        "attention": "block",
        "max_sequence_length": 128,
        "num_inference_steps": 1,
        "high_res_steps": 1,
    }
    size = (256, 256)
    by_tiles = paint(pipeline, size, **options)
    assert pipeline.attention_backend != "dense"
    by_mask = paint(pipeline, size, attention_backend="reference", **options)
    along = paint(pipeline, size, guide="along", **options)
    for other in (by_mask, along):
        torch.testing.assert_close(by_tiles, other, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        ValueError, match="a stage is 192x128 px; attention 'block' needs sides that are mult"
    ):
        paint(pipeline, **options)
    with pytest.raises(ValueError, match="text has 100 tokens; attention 'block' needs a multiple of 128"):
        paint(pipeline, size, **{**options, "max_sequence_length": 100})


def test_block_layouts_pad_text_as_the_authors_do():
    options = HighResOptions(attention="block")
    assert options.text_multiple == 512 and HighResOptions().text_multiple == 8
    options.check_stages((Stage(64, 80), Stage(256, 512)))  # the first stage is dense
    layout = options.layout((32, 64), (8, 16))
    assert guide_layout(layout).window == 4 and guide_layout(layout).dilate == (128, 64)
    with pytest.raises(ValueError, match="enlarging by about 4x2 can't keep the authors' blocks"):
        guide_layout(options.layout((32, 32), (8, 16)))


def test_the_smallest_stages_are_dense_and_larger_guides_look_around():
    options = HighResOptions()
    assert options.layout((8, 8), (4, 4)) is None
    stage = options.layout((32, 32), (8, 8))
    assert (stage.local, stage.radius, stage.window) == ("radius", RADIUS, 8)
    assert [options.layout((48, 96), low).guide_window for low in ((12, 24), (16, 32), (24, 48))] == [
        (2, 2)
    ] * 3
    assert guide_layout(stage) is None
    alone = guide_layout(options.layout((256, 256), (64, 64)))
    assert alone.grid == (64, 64) and alone.radius == RADIUS and alone.guide_grid is None
    own = HighResOptions(attention="window").layout((32, 32), (8, 8))
    assert (own.local, own.window) == ("own", 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash"}, "attention is 'flash'; it must be one of exact, block, window"),
        ({"order": "spiral"}, "order is 'spiral'; it must be one of raster"),
        (
            {"attention": "block", "order": "raster"},
            "order is 'raster'; attention 'block' has an order of its",
        ),
        ({"anchors": "corner"}, "anchors is 'corner'; it must be one of centred, official"),
        ({"guide": "frozen"}, "guide is 'frozen'; it must be one of cached, along, reads_text"),
        ({"solver": "heun"}, "solver is 'heun'; it must be one of adams_bashforth, euler"),
        ({"low_frequencies": "costant_hp"}, "low_frequencies is 'costant_hp'; it must be one of none"),
        ({"ntk_factor": 0.0}, "rope factor ntk is 0.0; it must be positive"),
        ({"linear_factor": -1.0}, "rope factor linear is -1.0; it must be positive"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf; it must be finite"),
        ({"guidance_interval": (0.5, 0.2)}, r"guidance_interval is \(0.5, 0.2\); it must rise within"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HighResOptions(**options)


def test_negative_prompts_need_a_stage_with_two_passes(pipeline):
    options = {"height": 64, "width": 64, "num_inference_steps": 1, "output_type": "latent"}
    with pytest.raises(ValueError, match="negative_prompt has no effect"):
        pipeline(PROMPT, negative_prompt="a cat", guidance_scale=1.0, **options)
    later = HighResOptions(guidance_scale=2.0)
    assert pipeline(
        PROMPT, negative_prompt="a cat", guidance_scale=1.0, high_res=later, **options
    ).images.any()


def test_presets_of_the_released_models():
    assert FLUX1_RELEASE.attention == FLUX2_RELEASE.attention == "block"
    assert (FLUX1_RELEASE.ntk_factor, FLUX2_BASE_RELEASE.ntk_factor, FLUX2_RELEASE.ntk_factor) == (10, 10, 1)
    assert (FLUX1_RELEASE.enlarge, FLUX2_RELEASE.enlarge) == ("sharpened", "latents")
    assert FLUX1_RELEASE.anchors == "official" and FLUX2_BASE_RELEASE.guidance_scale == 8.0
