"""Recipes on tiny random models of Storybook's shapes: they learn, resume, restart from published weights."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from pipelines import LongAlignPipeline
from pipelines.longalign import (
    convert_long_clip,
    measure_reference,
    preference_model,
    train_align,
    train_lcm,
    train_parts,
    train_reward,
)
from pipelines.longalign.evaluate import long_clip_note
from pipelines.longalign.parts import LongAlignParts, read_lora, write_lora
from pipelines.longalign.publish import main as publish_main
from pipelines.longalign.train import RECIPES, _reward
from pipelines.longalign.train import main as train_main
from pipelines.longalign.train_align import AlignTask
from pipelines.longalign.train_lcm import LCMTask, consistency, pseudo_huber
from pipelines.longalign.train_long_clip import LongCLIPTask
from pipelines.longalign.train_parts import Sources
from pipelines.longalign.train_reward import RewardTask
from pipelines.storybook.text import build_clip_tokenizer, build_t5_tokenizer
from pipelines.storybook.train_sd import SCHEDULE
from pipelines.training.loop import LoopConfig, Run
from pipelines.weights import lenders, verify_folder
from tests.pipelines.longalign.conftest import MARKS, build_t5, build_vae, quiet, sd_parts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Stable Diffusion folder of Storybook's kind: 16 latent channels, 128 px, velocities."""
    folder = tmp_path_factory.mktemp("model")
    parts = sd_parts(channels=16, size=16)
    parts["vae"], parts["scheduler"] = build_vae(16), DDIMScheduler(**SCHEDULE)
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(2)
    build_t5().save_pretrained(folder / "text_encoder_2")
    build_t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny `CLIPModel` as preference model."""
    folder, tokenizer = tmp_path_factory.mktemp("clip"), build_clip_tokenizer()
    torch.manual_seed(3)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77, **MARKS}
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(
        text_config={**text, **shape, "projection_dim": 8},
        vision_config={**vision, **shape, "projection_dim": 8}, projection_dim=8, **MARKS,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Everything that only makes a run longer is made short."""
    monkeypatch.setattr(train_parts, "LORA_RANK", 4)
    for module in (train_align, train_lcm, train_reward):
        monkeypatch.setattr(module, "SHEET_PAGES", 1)
    monkeypatch.setattr(train_parts, "SHEET_STEPS", 2)
    for module in (train_align, train_reward):
        monkeypatch.setattr(module, "HELD_OUT", 2)
    monkeypatch.setattr(measure_reference, "PAGES", 24)
    monkeypatch.setattr(measure_reference, "DRAWINGS", 4)
    monkeypatch.setattr(preference_model, "LEAST_CAPTIONS", 24)


@pytest.fixture(scope="module")
def longalign(model, t5, tmp_path_factory):
    """A LongAlign folder with random stages align and lcm, as published. Read only."""
    tmp_path = tmp_path_factory.mktemp("longalign")
    folder = tmp_path / "longalign"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_parts, "LORA_RANK", 4)
        publish_random(model, t5, tmp_path, folder)
    return folder


def publish_random(model, t5, tmp_path, folder):
    for stage in ("align", "lcm"):
        sources = Sources(model, t5, folder if stage == "lcm" else None)
        kind = AlignTask if stage == "align" else LCMTask
        state = {}
        for name, value in kind(sources, tmp_path / "cache", size=4).model.state_dict().items():
            state[name] = value + 0.02 * torch.randn(value.shape)
        (tmp_path / stage).mkdir()
        torch.save(state, tmp_path / stage / "ema.pt")
        publish(stage, tmp_path / stage, folder, t5)


def publish(stage, state, folder, t5=None):
    extra = ["--t5", str(t5)] if t5 is not None else []
    publish_main([stage, "--state", str(state), "--folder", str(folder), *extra])


def run_of(task, folder, samples, lr=1e-2, start=None, batch=2):
    config = LoopConfig(
        samples=samples, batch=batch, lr=lr, warmup=2, decay_from=1.0, ema_decay=0.5, weight_decay=0.0
    )
    return Run(task, config, folder, start)


def losses_of(run, steps, repeat=True):
    """Losses over steps; `repeat` sees the same samples each time, so that learning shows soon."""
    run.task.model.train()
    out = []
    for _ in range(steps):
        out.append(run.train_step()["loss"])
        if repeat:
            run.samples = 0
    return out


def test_align_learns_resumes_and_restarts(model, t5, tmp_path):
    def build():
        return AlignTask(Sources(model, t5), tmp_path / "cache", size=4)

    run = run_of(build(), tmp_path / "a", 10_000)
    before = run.task.model.state_dict()
    assert {name.split(".")[0] for name in before} == {"unet", "adapter"}
    losses = losses_of(run, 6)
    assert losses[-1] < 0.97 * losses[0]
    run.samples = 40
    run.save()
    expected = run.train_step()["loss"]
    again = run_of(build(), tmp_path / "a", 10_000)
    assert again.samples == 40 and again.train_step()["loss"] == pytest.approx(expected, rel=1e-2)
    metrics = run.evaluate()
    assert metrics["held_out_loss"] > 0 and (tmp_path / "a" / "sheet.png").exists()
    publish("align", tmp_path / "a", tmp_path / "published", t5)
    lora = read_lora(tmp_path / "published", "align")
    fresh = AlignTask(Sources(model, t5, tmp_path / "published"), tmp_path / "cache", size=4)
    restarted = run_of(fresh, tmp_path / "b", 10_000, start=lora)
    stored = torch.load(tmp_path / "a" / "ema.pt", weights_only=True)
    for name, value in restarted.task.model.state_dict().items():
        torch.testing.assert_close(value.float(), stored[name].float(), rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match="have no place"):
        fresh.model.load_state_dict({**lora, "down_blocks.9.lora_A.weight": torch.zeros(1)})


def test_published_align_weights_paint_through_the_pipeline(model, t5, longalign):
    pipe = quiet(LongAlignPipeline.from_pretrained(model))
    options = {"num_inference_steps": 1, "output_type": "pt"}

    def paint():
        return pipe("A red cat. A dog.", generator=torch.Generator().manual_seed(0), **options).images

    plain = paint()
    assert LongAlignParts.read(longalign).loras == ("align", "lcm")
    pipe.load_longalign(longalign)
    assert pipe.note == "LongAlign weights (align) with CLIP segments and T5"
    assert not torch.allclose(plain, paint(), atol=1e-3)


def test_lcm_learns_to_agree_with_itself(model, t5, longalign, tmp_path):
    task = LCMTask(Sources(model, t5, longalign), tmp_path / "cache", size=4)
    losses = losses_of(run_of(task, tmp_path / "run", 10_000), 5)
    assert losses[-1] < 0.97 * losses[0]
    assert set(task.evaluate(task.model.eval(), tmp_path)) == {"spread_of_four_steps", "spread_of_twenty"}


def test_the_teacher_is_the_network_without_its_lora(model, t5, longalign, tmp_path):
    task = LCMTask(Sources(model, t5, longalign), tmp_path / "cache", size=4)
    task.model.eval().to(torch.bfloat16)
    x, t, context = torch.randn(1, 16, 16, 16), torch.tensor([500]), task.parts.condition(["A cat."])
    with torch.no_grad():
        start = task.parts.network(x, t, context)
        for name, value in task.model.named_parameters():
            if "lora_B" in name:
                value.add_(0.1)
        with task.parts.learned.as_before():
            assert torch.equal(task.parts.network(x, t, context), start)
        assert not torch.allclose(task.parts.network(x, t, context), start, atol=1e-2)


def test_consistency_is_the_identity_at_time_zero():
    x, clean = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    assert torch.equal(consistency(x, clean, torch.tensor([0, -10])), x)
    torch.testing.assert_close(consistency(x, clean, torch.tensor([999, 999])), clean, rtol=1e-3, atol=1e-3)
    assert pseudo_huber(torch.zeros(3)) == 0 and float(pseudo_huber(torch.ones(3))) == pytest.approx(
        0.999, abs=1e-3
    )


@pytest.mark.parametrize("few_steps", [True, False], ids=["reward-on-lcm", "reward"])
def test_reward_raises_the_score(model, t5, clip, longalign, tmp_path, few_steps):
    task = RewardTask(
        Sources(model, t5, longalign), clip, tmp_path / "run", few_steps=few_steps, steps=(4, 2)
    )
    assert (tmp_path / "run" / "reference.safetensors").exists()
    run = run_of(task, tmp_path / "run", 10_000, lr=1e-2, batch=2)
    losses = losses_of(run, 3)
    assert losses[-1] < losses[0]
    metrics = task.evaluate(task.model.eval(), tmp_path)
    assert set(metrics) == {"held_out_relevant", "held_out_irrelevant"}


def test_the_weight_only_moves_the_irrelevant_part(model, t5, clip, longalign, tmp_path):
    figures = {}
    for weight in (0.0, 1.0):
        sources = Sources(model, t5, longalign)
        task = RewardTask(sources, clip, tmp_path / "run", few_steps=True, weight=weight)
        task.model.eval().to(torch.bfloat16)
        loss, parts = task.loss(0, 2)
        score = 1 - 2 * (float(loss.detach()) + 0.09 * (1 - weight))
        assert score == pytest.approx(parts["relevant"] + weight * parts["irrelevant"], abs=1e-4)
        figures[weight] = parts
    assert figures[0.0] == pytest.approx(figures[1.0], abs=1e-4)


def test_long_clip_learns_and_keeps_its_first_positions(clip, tmp_path):
    task = LongCLIPTask(clip)
    table = task.model.text_model.embeddings.position_embedding.weight
    before = table.detach().clone()
    assert len(before) == 248
    losses = losses_of(run_of(task, tmp_path / "run", 10_000, batch=4), 4)
    assert losses[-1] < losses[0]
    after = task.model.text_model.embeddings.position_embedding.weight.float()
    torch.testing.assert_close(after[:20], before[:20], rtol=1e-2, atol=1e-4)
    assert not torch.allclose(after[20:100], before[20:100], atol=1e-4)
    assert set(task.evaluate(task.model.eval(), tmp_path)) == {
        "held_out_long_top1_of_64", "held_out_short_top1_of_64"
    }  # fmt: skip


def test_a_trained_stretch_is_published_for_stock_pipelines(clip, model, tmp_path, capsys):
    task = LongCLIPTask(clip)
    run = run_of(task, tmp_path / "state", 10_000, batch=4)
    losses_of(run, 2)
    run.evaluate()
    folder, options = tmp_path / "long", ["--state", str(tmp_path / "state")]
    publish_main(["long-clip", *options, "--folder", str(folder), "--clip", str(clip)])
    tower = CLIPTextModel.from_pretrained(folder / "text_encoder")
    ids = CLIPTokenizer.from_pretrained(folder / "tokenizer")("a red cat. " * 90, truncation=True).input_ids
    assert len(ids) == 248
    own = {**CLIPModel.from_pretrained(clip).state_dict()}
    averaged = torch.load(tmp_path / "state" / "ema.pt", weights_only=True)
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(averaged[name].float(), own[name].float())
    inner = getattr(tower, "text_model", tower)
    torch.testing.assert_close(
        inner.encoder.layers[0].mlp.fc1.weight, averaged[name].float(), rtol=1e-3, atol=1e-4
    )
    assert long_clip_note(folder) == "" and long_clip_note(None) == "untrained stretch"
    convert_long_clip.main(["--folder", str(model), "--out", str(tmp_path / "plain")])
    assert long_clip_note(tmp_path / "plain") == "untrained stretch"
    with pytest.raises(SystemExit):
        publish_main(["long-clip", *options, "--folder", str(folder)])
    assert "long-clip needs --clip" in capsys.readouterr().err


def two_at_a_time(options):
    task, config = _reward(options)
    return task, replace(config, batch=2)


def test_the_command_line_trains_a_slice(model, t5, clip, longalign, tmp_path, monkeypatch):
    longalign = shutil.copytree(longalign, tmp_path / "longalign")
    arguments = ["--parts", str(model), "--t5", str(t5), "--longalign", str(longalign), "--threads", "1"]
    state = tmp_path / "slice"
    monkeypatch.setitem(RECIPES, "reward-on-lcm", two_at_a_time)
    train_main(
        ["reward-on-lcm", *arguments, "--preference", str(clip), "--state", str(state), "--samples", "2"]
    )
    last = json.loads((state / "log.jsonl").read_text().splitlines()[-1])
    assert last["samples"] == 2 and last["evaluation"] and (state / "ema.pt").exists()
    publish("reward-on-lcm", state, longalign)
    assert LongAlignParts.read(longalign).loras == ("align", "lcm", "reward_lcm")


@pytest.mark.parametrize(
    ("recipe", "named"),
    [("align", "--parts"), ("lcm", "--longalign"), ("reward", "--longalign"), ("long-clip", "--preference")],
)
def test_a_missing_folder_is_one_clear_line(recipe, named, model, tmp_path, capsys):
    given = [] if recipe in ("align", "long-clip") else ["--parts", str(model)]
    with pytest.raises(SystemExit) as stopped:
        train_main([recipe, "--state", str(tmp_path), "--threads", "1", *given])
    assert stopped.value.code == 2 and f"{recipe} needs {named}\n" in capsys.readouterr().err


def test_a_t5_beside_the_model_is_lent_and_checked(model, t5, tmp_path):
    """It isn't copied; where it is missing or another, loading and verifying say so."""
    lender, folder = tmp_path / "flux", tmp_path / "sd"
    shutil.copytree(t5, lender)
    shutil.copytree(model, folder)
    task = AlignTask(Sources(folder, lender), tmp_path / "cache", size=4)
    (tmp_path / "state").mkdir()
    torch.save(task.model.state_dict(), tmp_path / "state/ema.pt")
    publish("align", tmp_path / "state", folder / "longalign", lender)
    assert not (folder / "longalign/text_encoder_2").exists()
    assert LongAlignParts.read(folder / "longalign").t5["folder"] == "flux"
    assert verify_folder(folder) == [] and lenders(folder) == [lender]
    pipe = LongAlignPipeline.from_pretrained(folder)
    pipe.load_longalign(folder / "longalign")
    lent, own = pipe.text_encoder_2.state_dict(), task.parts.text_encoder_2.state_dict()
    assert all(lent[name].equal(own[name]) for name in own)
    write_lora(folder / "longalign", "lcm", read_lora(folder / "longalign", "align"))
    assert LongAlignParts.read(folder / "longalign").t5["folder"] == "flux"  # a later stage keeps it
    (lender / "tokenizer_2/tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="sd reads pages with the T5 of flux beside it, but .*tokenizer_2"):
        LongAlignPipeline.from_pretrained(folder).load_longalign(folder / "longalign")
    assert any("tokenizer_2/tokenizer_config.json has" in problem for problem in verify_folder(folder))
