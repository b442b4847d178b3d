"""The recipes on tiny models: the loss falls, a run resumes and starts again from what it published."""

import json
import shutil
from dataclasses import replace
from random import Random

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler

from pipelines.compass import publish, sheets, train, train_flux, train_unet
from pipelines.compass.adapter_weights import AdapterWeights, add_adapter, compass_targets
from pipelines.compass.pipeline_compass import CompassPipeline
from pipelines.compass.sidecar import read_sidecar
from pipelines.compass.tenor import TenorHandle, is_installed
from pipelines.compass.train_flux import FluxAdapterTask
from pipelines.compass.weights_compass import LORA_FILE, load_compass, weights_kind
from pipelines.training.loop import LoopConfig, Run

FIRST = TenorHandle.set_positions
QUICK = LoopConfig(samples=24, batch=2, lr=2e-2, warmup=2, decay_from=1.0, ema_decay=0.5)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=16, norm_num_groups=4,
        mid_block_add_attention=False, scaling_factor=1.0, shift_factor=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def flux_parts(build_parts, vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux") / "model"
    parts = {**build_parts(in_channels=64), "vae": vae}
    CompassPipeline(**parts).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd_parts(build_parts, vae, tmp_path_factory):
    from tests.pipelines.compass.conftest import tiny_unet

    folder = tmp_path_factory.mktemp("sd") / "model"
    parts = build_parts()
    CompassPipeline(
        vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        unet=tiny_unet(in_channels=16, out_channels=16, block_out_channels=(16, 16)),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short runs, one small sheet."""
    for module, name in ((train_flux, "flux_adapter_recipe"), (train_unet, "unet_recipe")):
        monkeypatch.setattr(module, name, lambda: QUICK)
    monkeypatch.setattr(sheets, "COUNT", 2)
    monkeypatch.setattr(sheets, "STEPS", 1)


def command(recipe, parts, state, *more):
    train.main(
        [recipe, "--parts", str(parts), "--state", str(state), "--scenes", "8", "--threads", "1", *more]
    )


def losses(task, count=4):
    with torch.no_grad():
        return sum(float(task.loss(first * 4, 4)[0]) for first in range(count)) / count


@pytest.mark.parametrize("recipe", ["flux", "sd"])
def test_a_run_learns_resumes_and_is_published(recipe, request, tmp_path):
    parts, state = request.getfixturevalue(f"{recipe}_parts"), tmp_path / "state"
    command(recipe, parts, state, "--samples", "8")
    middle = torch.load(state / "checkpoint.pt", weights_only=True)
    assert middle["samples"] == 8 and (state / "sheet.png").is_file()
    command(recipe, parts, state)
    records = [json.loads(line) for line in (state / "log.jsonl").read_text().splitlines()]
    assert records[-1]["samples"] == 24 and records[-1]["evaluation"]
    assert read_sidecar(state).tenor
    folder = tmp_path / "published"
    publish.main([recipe, "--state", str(state), "--folder", str(folder), "--parts", str(parts)])
    pipeline = CompassPipeline.from_pretrained(parts, compass=None)
    load_compass(pipeline, folder)
    assert pipeline.has_tenor
    trained = torch.load(state / "ema.pt", weights_only=True)
    published = folder / ("unet" if recipe == "sd" else "")
    restart = ["--samples", "2", "--start-from", str(published)]
    command(recipe, parts, tmp_path / "again", *restart)
    again = torch.load(tmp_path / "again/ema.pt", weights_only=True)
    assert set(again) == set(trained)
    start = CompassPipeline.from_pretrained(parts, compass=None)
    if recipe == "sd":
        plain = {name: value.half() for name, value in start.unet.state_dict().items()}
        drift = [(again[name] - trained[name]).float().norm() for name in plain]
        way = [(plain[name] - trained[name]).float().norm() for name in plain]
        assert sum(drift) < 0.6 * sum(way)  # it went on from the published weights, not from the base
    else:
        assert weights_kind(trained) == "flux-lora" and (folder / LORA_FILE).is_file()


@pytest.mark.parametrize("recipe", ["flux", "sd"])
def test_the_loss_falls_on_the_samples_it_has_seen(recipe, request, tmp_path):
    parts = request.getfixturevalue(f"{recipe}_parts")
    options = train_options(recipe, parts, tmp_path)
    task, config = train.RECIPES[recipe](options)
    task.model.to(torch.bfloat16)
    before = losses(task)
    task.model.float()
    run = Run(task, replace(config, samples=200), tmp_path / "state")
    for _ in range(16):
        run.train_step()
    assert losses(task) < 0.97 * before


def train_options(recipe, parts, folder, **changes):
    from argparse import Namespace

    values = {
        "parts": parts,
        "state": folder / "state",
        "data": None,
        "profile": "official",
        "rank": 4,
        "scenes": 4,
    }
    return Namespace(recipe=recipe, **{**values, **changes})


@pytest.mark.parametrize(
    ("recipe", "tenor", "grounded"),
    [("flux", True, None), ("flux-scop", False, None), ("flux-plain", False, None), ("sd", True, True),
     ("sd-scop", False, True), ("sd-plain", False, False)],
)  # fmt: skip
def test_the_arms_differ_in_what_their_names_say(recipe, tenor, grounded, request, tmp_path):
    parts = request.getfixturevalue(f"{recipe.split('-')[0]}_parts")
    task, _ = train.RECIPES[recipe](train_options(recipe, parts, tmp_path))
    model = task.transformer if recipe.startswith("flux") else task.model
    assert is_installed(model) is tenor and read_sidecar(tmp_path / "state").tenor is tenor
    assert (task.source.params is None) == recipe.endswith("plain")
    if grounded is not None:
        assert (task.recorder is not None) is grounded
    task.model.to(torch.bfloat16)
    (loss, figures), (again, _) = task.loss(0, 4), task.loss(0, 4)
    assert loss.isfinite() and loss.equal(again) and loss.requires_grad
    if grounded:
        assert {"error", "token", "pixel"} <= set(figures) and figures["token"] > 0


def test_the_adapter_is_the_published_one_in_shape(flux_parts, transformer):
    targets = compass_targets(transformer)
    assert len(targets) == 2 * 8 + 2 * 4 and "single_transformer_blocks.0.attn.to_q" not in targets
    add_adapter(transformer, 4, targets, "compass")
    weights = AdapterWeights(transformer, "compass", "transformer")
    state = weights.state_dict()
    assert len(state) == 2 * len(targets) and weights_kind(state) == "flux-lora"
    down = torch.cat([value.flatten() for name, value in state.items() if "lora_A" in name])
    assert down.std() == pytest.approx(1 / 4, rel=0.1)
    assert all(value.eq(0).all() for name, value in state.items() if "lora_B" in name)
    weights.load_state_dict({name: torch.ones_like(value) for name, value in state.items()})
    assert transformer.transformer_blocks[0].attn.to_q.lora_A["compass"].weight.eq(1).all()  # not a copy
    with pytest.raises(ValueError, match="no adapter 'other'"):
        AdapterWeights(transformer, "other", "transformer")


def test_only_the_adapter_is_trained(flux_parts, tmp_path):
    task, _ = train.RECIPES["flux"](train_options("flux", flux_parts, tmp_path))
    before = {
        name: value.clone() for name, value in task.transformer.state_dict().items() if "lora" not in name
    }
    run = Run(task, QUICK, tmp_path / "state")
    for _ in range(3):
        run.train_step()
    after = task.transformer.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(value.abs().sum() > 0 for name, value in after.items() if "lora_B" in name)


def test_a_mined_folder_can_be_trained_on(flux_parts, write_coco, good_pair, pictures, tmp_path):
    from pipelines.compass.scop import run_scop

    run_scop(write_coco(good_pair), pictures, tmp_path / "mined")
    options = train_options("flux", flux_parts, tmp_path, data=tmp_path / "mined")
    task, _ = train.RECIPES["flux"](options)
    assert task.source.side_px == 512 and task.source.records[0]["seq"] == 0
    assert task.source.batch(0, 1, False).latents.shape == (1, 16, 64, 64)


def test_a_unet_is_published_as_the_adapter_that_comes_closest(sd_parts, tmp_path):
    """Of full rank it changes every matrix and kernel as training did; of a low one it comes close."""
    state = tmp_path / "state"
    command("sd", sd_parts, state, "--samples", "8")
    plain = CompassPipeline.from_pretrained(sd_parts, compass=None).unet.state_dict()
    trained = torch.load(state / "ema.pt", weights_only=True)
    sizes, missed = [], []
    for rank in (2, 512):
        folder = tmp_path / f"rank_{rank}"
        arguments = ["--state", str(state), "--folder", str(folder), "--parts", str(sd_parts)]
        publish.main(["sd", *arguments, "--rank", str(rank)])
        pipeline = CompassPipeline.from_pretrained(sd_parts, compass=folder)
        assert pipeline.has_tenor and not (folder / "unet").exists()
        sizes.append((folder / LORA_FILE).stat().st_size)
        pipeline.unet.fuse_lora()
        layers = {
            name.replace(".base_layer", ""): value for name, value in pipeline.unet.state_dict().items()
        }
        wide = [name for name, value in plain.items() if value.ndim > 1]
        changes = [(layers[name] - trained[name].float()).norm() for name in wide]
        missed.append(sum(changes) / sum((plain[name] - trained[name].float()).norm() for name in wide))
    assert sizes[0] < 0.5 * sizes[1] and missed[1] < 0.02 < missed[0] < 0.9
    publish.main(["sd", *arguments])  # whole again: no adapter may be left beside it
    assert not (folder / LORA_FILE).exists() and (folder / "unet").is_dir()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["flux"], "holds no run of a flux-double model"),
        (["flux", "--rank", "16"], "--rank is for sd"),
        (["sd", "--parts", "model"], "holds no run of a unet model"),
    ],
)
def test_nothing_is_published_from_a_foreign_run(words, problem, tmp_path, capsys):
    (tmp_path / "state").mkdir()
    with pytest.raises(SystemExit) as stopped:
        publish.main([*words, "--state", str(tmp_path / "state"), "--folder", str(tmp_path / "out")])
    assert stopped.value.code == 2 and problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_schedulers_with_other_predictions_are_refused(sd_parts, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sd_parts, folder)
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"flow"'))
    with pytest.raises(ValueError, match="predicts 'flow'"):
        train.RECIPES["sd"](train_options("sd", folder, tmp_path))


def test_flux_dev_keeps_its_own_recipe(build_parts, vae, tmp_path):
    parts = {**build_parts(in_channels=64, guidance_embeds=True), "vae": vae}
    CompassPipeline(**parts).save_pretrained(tmp_path / "dev")
    task, config = train.RECIPES["flux"](train_options("flux", tmp_path / "dev", tmp_path))
    assert config.lr == 1e-5 and config.samples == 2 * 24_005 and isinstance(task, FluxAdapterTask)
    assert len(task.times) == 1000
    task.model.to(torch.bfloat16)
    assert task.loss(0, 1)[0].isfinite()


def test_few_tokens_stand_for_a_long_padding(transformer):
    """Padding tokens that are all alike: 4 of them, each counted tenfold, do what 40 do."""
    generator = torch.Generator().manual_seed(3)
    words = torch.randn(1, 6, 16, generator=generator)
    pad, image = torch.randn(1, 1, 16, generator=generator), torch.randn(1, 16, 16, generator=generator)

    def run(pads, **options):
        text = torch.cat([words, pad.expand(1, pads, 16)], 1)
        return transformer(
            hidden_states=image, encoder_hidden_states=text, pooled_projections=torch.ones(1, 24),
            timestep=torch.tensor([0.4]), img_ids=torch.zeros(16, 3), txt_ids=torch.zeros(6 + pads, 3),
            **options,
        ).sample  # fmt: skip

    padding = train_flux.Padding(Random(0), 6)
    padding.computed, padding.total = 4, 40
    bias = padding.bias(16)
    with torch.no_grad():
        few = run(4, joint_attention_kwargs={"attention_mask": bias})
        torch.testing.assert_close(few, run(40), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(few, run(4), atol=1e-3)


def test_padding_is_of_all_lengths_and_its_positions_are_spread_over_it():
    drawn = [train_flux.Padding(Random(seed), 20) for seed in range(400)]
    totals = [padding.total for padding in drawn]
    assert {padding.computed for padding in drawn} == set(train_flux.TEXT_PADS)
    assert max(totals) > 400 and sum(total > 50 for total in totals) > 40
    for padding in drawn:
        if padding.positions is None:
            assert padding.total == padding.computed and padding.bias(3) is None
            continue
        places = padding.positions[20:].tolist()
        assert padding.positions[:20].tolist() == list(range(20)) and len(places) == padding.computed
        assert places == sorted(set(places)) and places[0] >= 20 and places[-1] < 20 + padding.total <= 512
        weight = padding.bias(3).exp().sum() - 20 - 3
        assert float(weight) == pytest.approx(padding.total)
    full = train_flux.Padding(Random(1), 512)
    assert (full.computed, full.total) == (0, 0)
    nearly = [train_flux.Padding(Random(seed), 510) for seed in range(50)]
    assert all(padding.longest + padding.total <= 512 for padding in nearly)


def test_the_adapter_meets_long_captions_and_far_positions(flux_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(train_flux, "TEXT_PADS", (8,))
    monkeypatch.setattr(train_flux, "LONG_CAPTIONS", 0.5)
    task, _ = train.RECIPES["flux"](train_options("flux", flux_parts, tmp_path))
    seen = []
    monkeypatch.setattr(
        task.tenor, "set_positions", lambda positions: seen.append(positions) or FIRST(task.tenor, positions)
    )
    batches = [task.source.batch(first, 16, False).texts for first in range(0, 160, 16)]
    sentences = [max(text.count(".") for text in texts) for texts in batches]
    assert 2 <= sum(count > 3 for count in sentences) <= 8 and min(sentences) == 0
    task.model.to(torch.bfloat16)
    for first in range(12):
        assert task.loss(first * 2, 2)[0].isfinite()
    far = [positions for positions in seen if positions is not None]
    assert far and max(int(positions.max()) for positions in far) > 64
    assert task.tenor.positions.custom is None  # pictures are painted with the rule
    for recipe in ("sd", "sd-plain"):
        assert (
            train._source(train_options(recipe, flux_parts, tmp_path), True, 1)(task.pipeline.vae).long_share
            == 0
        )
