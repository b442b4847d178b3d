"""Both recipes: batches, losses, gradients, falling loss, resuming, restarting, publishing, evaluating."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from pipelines import FlexARPipeline, FlexTokPipeline
from pipelines.flextok import (
    evaluate,
    publish,
    speed,
    token_places,
    token_readers,
    train,
    train_flexar,
    train_tokenizer,
)
from pipelines.flextok.blocks import Trunk, normalize
from pipelines.flextok.train_flexar import FlexARTask
from pipelines.flextok.train_tokenizer import (
    DecoderTask,
    EncoderTask,
    TokenizerTask,
    eye_features,
    latent_weights,
    token_count,
)
from pipelines.storybook.detector import StorybookEyes, StorybookJudge
from pipelines.storybook.scene import Scene, SceneObject, has_held_out, is_held_out_pair
from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACES
from pipelines.training.loop import LoopConfig, Run, slice_of
from pipelines.weights import lenders, verify_folder

SIZES = {
    "in_channels": 16, "patch_size": (2, 2), "dim": 32, "head_dim": 16, "grid": (8, 8), "num_registers": 8,
    "levels": (8, 5), "depth": 2, "posemb_type": "learnable_sum",
}  # fmt: skip
REAL_ENCODER, REAL_DECODER = train_tokenizer.ENCODER, train_tokenizer.DECODER  # tests make them small
WEIGHTS = "diffusion_pytorch_model.safetensors"
FAST = LoopConfig(samples=4000, batch=4, lr=3e-3, warmup=3, ema_decay=0.9)


@pytest.fixture(scope="module")
def parts(saved_folder, tmp_path_factory):
    """Text parts, an autoencoder of 16 channels, eyes and a judge, all tiny and random."""
    folder = tmp_path_factory.mktemp("parts")
    for name in ("tokenizer_2", "text_encoder_2"):
        shutil.copytree(saved_folder / name, folder / name)
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=16, norm_num_groups=4,
        mid_block_add_attention=False, scaling_factor=1.0, shift_factor=0.0,
    )  # fmt: skip
    vae.save_pretrained(folder / "vae")
    StorybookEyes(widths=(16, 16, 32), blocks=(1, 1, 1, 1)).save_pretrained(folder / "eyes")
    judge = StorybookJudge(widths=(16, 16, 16, 32), layers=1, heads=2, pyramid=16)
    judge.save_pretrained(folder / "judge")
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(train_tokenizer, "ENCODER", SIZES)
    monkeypatch.setattr(train_tokenizer, "DECODER", {**SIZES, "max_timestep": 20.0})
    monkeypatch.setattr(train_tokenizer, "FEATURES", 32)
    monkeypatch.setattr(token_readers, "FEATURES", 32)
    monkeypatch.setattr(train_flexar, "MODEL", {"width": 32, "depth": 2, "num_heads": 2, "condition": "text"})


@pytest.fixture
def task(parts, tmp_path):
    return TokenizerTask(parts, parts / "eyes", tmp_path / "cache", size=32)


@pytest.fixture
def published(parts, tmp_path, task):
    """A folder as published from a run that has just begun."""
    state, folder = tmp_path / "first", tmp_path / "storybook-flextok"
    Run(task, slice_of(FAST, samples=4), state).train()
    folder.mkdir()
    arguments = ["flextok", "--state", str(state), "--folder", str(folder), "--parts", str(parts)]
    publish.main([*arguments, "--steps", "3", "--guidance", "1.5"])
    return folder


def test_every_octave_comes_once_in_a_round_and_the_last_more_often():
    for first in (0, 12, 60):
        counts = [token_count(i, 3, 256) for i in range(first, first + 12)]
        octaves = sorted((count - 1).bit_length() for count in counts)
        assert octaves == [*range(9), 8, 8, 8]
    assert [token_count(i, 3, 256) for i in range(12)] != [token_count(i, 3, 256) for i in range(12, 24)]
    assert max(token_count(i, 3, 8) for i in range(40)) <= 8


def test_object_latents_weigh_more_and_the_mean_stays_one():
    item = SceneObject("ball", "red", "plain", "large", 0.5, 0.5, 0.25)
    whole, empty = latent_weights([Scene("room", (item,)), Scene("room", ())], 3.0)
    assert whole.mean() == pytest.approx(1.0) and empty.eq(1).all()
    assert float(whole[8, 8] / whole[0, 0]) == pytest.approx(3.0)


def test_features_are_what_the_eyes_compute(parts):
    eyes = StorybookEyes.from_pretrained(parts / "eyes").eval()
    seen = []
    hook = eyes.sixteenth.register_forward_hook(lambda module, given, out: seen.append(out))
    pictures = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        eyes(pictures)
    hook.remove()
    assert torch.equal(eye_features(eyes, pictures), seen[0]) and seen[0].shape == (2, 32, 8, 8)
    assert len(KINDS) == 16


def test_a_batch_gives_the_same_loss_whenever_it_is_asked_for(task, parts, tmp_path):
    (loss, figures), (again, _) = task.loss(8, 4), task.loss(8, 4)
    assert loss.isfinite() and loss.equal(again)
    assert {"flow", "repa"} < set(figures) and figures["flow"] == pytest.approx(2.0, abs=1.5)
    resumed = TokenizerTask(parts, parts / "eyes", tmp_path / "cache", size=32)  # features from the file
    assert resumed.loss(8, 4)[0].equal(loss)


def test_gradients_reach_every_parameter(task):
    with torch.no_grad():  # closed gates would keep gradients from the blocks in the first step
        for parameter in task.model.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
    for first in range(0, 36, 4):
        task.loss(first, 4)[0].backward()
    missing = [
        name for name, p in task.model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]  # fmt: skip
    assert missing == ["reader.read.weight"]  # so few tokens have no place


def test_the_tokenizer_learns_resumes_and_restarts(task, parts, tmp_path):
    config = slice_of(FAST, samples=240)
    run = Run(task, config, tmp_path / "run")
    losses = [run.train_step()["loss"] for _ in range(27)]
    assert np.mean(losses[-9:]) < 0.95 * np.mean(losses[:9])
    run.save()
    resumed = Run(TokenizerTask(parts, parts / "eyes", tmp_path / "cache", size=32), config, tmp_path / "run")
    assert resumed.samples == 108
    assert resumed.train_step()["loss"] == pytest.approx(run.train_step()["loss"], rel=1e-4)
    metrics = run.evaluate()
    assert {"psnr_1", "psnr_4", "codes_used"} <= set(metrics) and 0 < metrics["codes_used"] <= 1
    assert Image.open(tmp_path / "run" / "sheet.png").size == (8 * 128, 3 * 128)


def test_a_run_becomes_a_folder_and_the_folder_a_run(published, parts, tmp_path):
    pipeline = FlexTokPipeline.from_pretrained(published)
    assert (pipeline.config.default_steps, pipeline.config.default_guidance) == (3, 1.5)
    state = torch.load(tmp_path / "first" / "ema.pt", weights_only=True)
    name = "module_dict.enc_to_latents.proj.weight"
    assert torch.equal(pipeline.encoder.state_dict()[name], state[f"encoder.{name}"].float())
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (published / vae).read_bytes() == (parts / vae).read_bytes()
    common = ["--state", str(tmp_path / "second"), "--parts", str(parts), "--eyes", str(parts / "eyes")]
    train.main(["flextok", *common, "--samples", "16", "--start-from", str(published), "--threads", "1"])
    log = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["evaluation"] and log[-1]["samples"] == 16
    assert not list(published.glob(".*"))


def test_a_decoder_learns_on_while_the_tokens_keep_their_meaning(published, parts, tmp_path):
    task = DecoderTask(parts, parts / "eyes", tmp_path / "cache", published, size=32)
    (loss, figures), (again, _) = task.loss(8, 4), task.loss(8, 4)
    assert loss.isfinite() and loss.equal(again) and "spread" not in figures
    codes, extra, _ = task._tokens(0, task.stream.batch(0, 4)[0], 5, None)
    ids = task.tokens.batch(0, 4)[:, :5]
    assert extra == 0 and codes.equal(task.encoder.quantizer.codes(ids))
    before = {path: path.read_bytes() for path in (published / "encoder").iterdir()}
    old = FlexTokPipeline.from_pretrained(published).decoder.state_dict()
    common = ["--parts", str(parts), "--state", str(tmp_path / "state")]
    arguments = ["decoder", *common, "--eyes", str(parts / "eyes"), "--tokenizer", str(published)]
    arguments += ["--start-from", str(published), "--samples", "64", "--threads", "1"]
    train.main([*arguments, "--cache", str(tmp_path / "cache")])
    publish.main(["decoder", *common, "--folder", str(published)])
    assert {path: path.read_bytes() for path in (published / "encoder").iterdir()} == before
    new = FlexTokPipeline.from_pretrained(published).decoder.state_dict()
    assert any(not new[name].equal(value) for name, value in old.items())


def test_the_encoder_learns_alone_by_what_can_be_read_from_its_tokens(published, parts, tmp_path):
    task = EncoderTask(parts, parts / "eyes", tmp_path / "cache", size=32)
    run = Run(task, slice_of(FAST, samples=400), tmp_path / "run", task.starting_weights(published))
    losses = [run.train_step()["loss"] for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])
    metrics = run.evaluate()
    assert set(metrics) == {
        f"{part}_{what}" for part in ("seen", "held_out") for what in ("read", "kind_1", "kind_4")
    }
    drawn = {part: stream.latents.scene(0)[0] for part, stream in task.unseen.items()}
    assert has_held_out(drawn["held_out"]) and not has_held_out(drawn["seen"])
    before = {name: (published / name / WEIGHTS).read_bytes() for name in ("encoder", "decoder")}
    run.save()
    arguments = ["encoder", "--state", str(tmp_path / "run"), "--folder", str(published)]
    publish.main([*arguments, "--parts", str(parts)])
    assert (published / "encoder" / WEIGHTS).read_bytes() != before["encoder"]
    assert (published / "decoder" / WEIGHTS).read_bytes() == before["decoder"]
    kept = FlexTokPipeline.from_pretrained(published).config
    assert (kept.default_steps, kept.default_guidance) == (3, 1.5)  # what the folder said before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["decoder"], "holds no decoder"),
        (["flextok", "--keep", "4"], "flextok has no use for --keep; it is for flexar"),
        (["flexar", "--steps", "4"], "flexar has no use for --steps"),
        (["flexar", "--keep", "0"], "--keep is 0; allowed: 1 or more"),
    ],
)
def test_what_can_not_be_published_changes_nothing(arguments, sentence, published, parts, tmp_path, capsys):
    state = torch.load(tmp_path / "first" / "ema.pt", weights_only=True)
    (tmp_path / "half").mkdir()
    encoder = {name: value for name, value in state.items() if name.startswith("encoder.")}
    torch.save(encoder, tmp_path / "half" / "ema.pt")
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    common = ["--state", str(tmp_path / "half"), "--folder", str(published), "--parts", str(parts)]
    with pytest.raises(SystemExit) as ended:
        publish.main([*arguments, *common])
    assert ended.value.code == 2 and sentence in capsys.readouterr().err
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before


def test_the_autoencoder_beside_is_named_instead_of_copied(published, parts, tmp_path):
    shutil.copytree(parts / "vae", tmp_path / "storybook-sd/vae")
    common = ["--folder", str(published), "--parts", str(parts)]
    publish.main(["flextok", "--state", str(tmp_path / "first"), *common])
    assert not (published / "vae").exists()
    pipeline = FlexTokPipeline.from_pretrained(published)
    own = AutoencoderKL.from_pretrained(parts / "vae").state_dict()
    assert all(pipeline.vae.state_dict()[name].equal(value) for name, value in own.items())
    task = FlexARTask(published, parts, tmp_path / "cache", size=4)  # the next recipe opens it as well
    assert all(task.vae.state_dict()[name].equal(value) for name, value in own.items())
    Run(task, slice_of(FAST, samples=4), tmp_path / "ar").train()
    publish.main(["flexar", "--state", str(tmp_path / "ar"), *common])
    assert not (published / "vae").exists() and FlexARPipeline.from_pretrained(published).vae is not None
    (tmp_path / "storybook-sd/vae/config.json").write_text("{}")  # other bytes: a copy again
    publish.main(["flextok", "--state", str(tmp_path / "first"), *common])
    assert (published / "vae").is_dir() and FlexARPipeline.from_pretrained(published).vae is not None


def test_the_text_encoder_beside_is_named_instead_of_copied(published, parts, tmp_path):
    beside = shutil.copytree(parts, tmp_path / "flux")
    task = FlexARTask(published, beside, tmp_path / "cache", size=4)
    Run(task, slice_of(FAST, samples=4), tmp_path / "ar").train()
    command = ["flexar", "--state", str(tmp_path / "ar"), "--folder", str(published), "--parts"]
    publish.main([*command, str(beside)])
    assert not {"text_encoder", "tokenizer"} & {path.name for path in published.iterdir()}
    assert verify_folder(published) == [] and lenders(published) == [beside]
    pipeline = FlexARPipeline.from_pretrained(published)
    own = task.text.state_dict()
    assert all(pipeline.text_encoder.state_dict()[name].equal(value) for name, value in own.items())
    assert FlexARPipeline.from_pretrained(published, dtype=torch.float16).text_encoder.dtype == torch.float16
    assert FlexARPipeline.from_pretrained(published, text_encoder=None).text_encoder is None
    prompt = {"keep": 3, "generator": torch.Generator().manual_seed(0), "output_type": "tokens"}
    tokens = pipeline("a red ball", **prompt).tokens
    pipeline.save_pretrained(tmp_path / "elsewhere/model")
    alone = FlexARPipeline.from_pretrained(tmp_path / "elsewhere/model")
    prompt["generator"].manual_seed(0)
    assert (tmp_path / "elsewhere/model/text_encoder").is_dir()
    assert torch.equal(torch.stack(alone("a red ball", **prompt).tokens), torch.stack(tokens))
    (beside / "tokenizer_2/tokenizer_config.json").write_text("{}")  # other bytes
    with pytest.raises(ValueError, match="has no text encoder of its own and uses that of flux beside"):
        FlexARPipeline.from_pretrained(published)
    publish.main([*command, str(parts)])  # nothing of that name beside: a copy
    assert (published / "tokenizer").is_dir() and verify_folder(published) == []
    assert FlexARPipeline.from_pretrained(published).tokenizer is not None


def test_the_generator_learns_resumes_and_is_published(published, parts, tmp_path):
    cache = tmp_path / "cache"
    task = FlexARTask(published, parts, cache, size=8)
    ids = task.stream.batch(0, 4)
    assert ids.shape == (4, 8) and int(ids.min()) >= 0 and int(ids.max()) < 40
    again = FlexARTask(published, parts, cache, size=8).stream.batch(0, 4)
    assert torch.equal(ids, again)
    (loss, figures), (same, _) = task.loss(0, 4), task.loss(0, 4)
    assert loss.equal(same) and loss.item() == pytest.approx(np.log(40), abs=1.0) and "first_8" in figures
    config = slice_of(FAST, samples=400)
    run = Run(task, config, tmp_path / "ar")
    losses = [run.train_step()["loss"] for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:8])
    run.save()
    resumed = Run(FlexARTask(published, parts, cache, size=8), config, tmp_path / "ar")
    assert resumed.samples == 100
    assert resumed.train_step()["loss"] == pytest.approx(run.train_step()["loss"], rel=1e-4)
    metrics = run.evaluate()
    assert {"held_out", "held_out_first_8"} <= set(metrics)
    arguments = ["flexar", "--state", str(tmp_path / "ar"), "--folder", str(published), "--parts", str(parts)]
    publish.main(arguments)
    pipeline = FlexARPipeline.from_pretrained(published)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.config.default_guidance == 1.5  # kept from the tokenizer
    assert pipeline.config.default_keep == 8  # fewer than the recipe's
    result = pipeline("a red ball in a room", keep=3, generator=torch.Generator().manual_seed(0))
    assert result.images[0].size == (128, 128)
    start = task.starting_weights(published)
    assert set(start) == set(task.model.state_dict())
    pair = TokenizerTask(parts, parts / "eyes", cache, size=8)
    assert pair.reading > 0 and set(pair.starting_weights(published)) == set(pair.model.state_dict())
    assert pair.reading == 0  # published weights paint at once
    judged(published, parts, tmp_path / "figures")
    timed(tmp_path / "speed.json", "--folder", str(published))
    timed(tmp_path / "random.json", "--random", "--parts", str(parts))


def judged(folder, parts, out):
    """Both evaluations of a published folder, twice: the second time from the kept answers."""
    arguments = ["--folder", str(folder), "--judge", str(parts / "judge"), "--n", "1", "--cache", str(out)]
    evaluate.main([*arguments, "--out", str(out / "figures.json"), "--pictures", str(out / "pictures")])
    figures = json.loads((out / "figures.json").read_text())
    for part in ("seen", "held_out"):
        assert f"original/{part}" in figures and f"tokens 1/{part}" in figures
        row = figures[f"tokens 8/{part}"]
        assert row["right"]["n"] == row["psnr"]["n"] == 1 and row["psnr"]["unit"] == "dB"
        assert figures[f"text to tokens 8/{part}"]["kind_and_colour"]["n"] == 1
        assert set(figures[f"summary/{part}"]) == {"right_with_all", "fewest_with_90", "psnr_grows"}
        assert Image.open(out / "pictures" / f"flextok_curve_{part}.png").size == (640, 360)
        sheet = Image.open(out / "pictures" / f"flextok_sheet_{part}.webp")
        assert sheet.size == (64 + 5 * 128, 36 + 3 * (128 + 16) + 8)
    kept = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    evaluate.main(arguments)
    assert {path.name: path.read_bytes() for path in out.glob("*.jsonl")} == kept and len(kept) == 4


def timed(out, *options):
    threads = torch.get_num_threads()
    try:
        speed.main([*options, "--threads", "1", "--repeats", "1", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(out.read_text())
    names = " ".join(item["name"] for item in figures["comparisons"])
    for word in ("collapsed", "truncated", "modulation", "guidance", "mixed", "cache"):
        assert word in names
    assert all(item["error"] < 1e-3 for item in figures["comparisons"])
    assert all(item["ratio"] > 0 and item["cpu_ratio"] > 0 for item in figures["comparisons"])
    assert sum("cache" in item["name"] for item in figures["comparisons"]) == 2
    assert set(figures["decode_seconds"]) == {"1"}


def test_headlines_by_hand():
    def row(value, psnr):
        return {"right": {"value": value, "n": 7}, "psnr": {"value": psnr}}

    table = {
        "original": row(1, 99),
        "tokens 2": row(0.9, 12),
        "tokens 1": row(0.5, 10),
        "tokens 4": row(1, 11),
    }
    found = evaluate.headline(table)
    assert found["fewest_with_90"]["value"] == 2 and found["psnr_grows"]["value"] == 0
    assert found["right_with_all"]["value"] == 1
    table["tokens 4"]["psnr"]["value"] = 13
    assert evaluate.headline(table)["psnr_grows"]["value"] == 1
    low = {f"tokens {count}": row(0.2, count) for count in (1, 2)}
    assert evaluate.headline(low)["fewest_with_90"]["value"] == 0


def test_codes_that_are_alike_or_saturated_cost():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(64, 4, 3, generator=generator)
    assert train_tokenizer.unused_codes(spread) < 0.05
    assert train_tokenizer.unused_codes(spread[:1].expand(64, -1, -1)) > 0.5
    assert train_tokenizer.unused_codes(4 * spread) > 1.0


def test_tokens_start_at_places_that_are_spread_evenly():
    cells = token_places.token_cells(256)
    assert cells[: token_places.FREE] == [None] * token_places.FREE
    places = cells[token_places.FREE :]
    marks = token_places.token_marks(256)
    assert marks[:18] == [*range(16), 0, 0] and marks[79:81] == [0, 1] and marks[-1] == 3
    assert len(set(places[:64])) == 64 and places[64:128] == places[:64]
    for few in (4, 16):
        cells = {(row * few**0.5 // 8, column * few**0.5 // 8) for row, column in places[:few]}
        assert len(cells) == few


def test_no_two_tokens_start_alike():
    """Tokens that look at the same patches in the same way would learn the same."""
    torch.manual_seed(0)
    pair = train_tokenizer.TokenizerPair()
    registers = pair.encoder.module_dict["enc_register_module"].registers
    told = pair.decoder.module_dict["dec_registers_posemb_module"].posembs[0, 0].T
    for vectors in (registers, told):
        apart = torch.cdist(vectors[:256], vectors[:256]) + 1e3 * torch.eye(len(vectors[:256]))
        assert apart.min() > 1.0
    with torch.no_grad():
        z = pair.encoder(torch.randn(8, 16, 16, 16))
    assert z.std(1).mean() > 0.05


def test_each_head_of_the_first_block_starts_at_the_tokens_of_one_round():
    torch.manual_seed(0)
    decoder = train_tokenizer.FlexTokDecoderModel(**REAL_DECODER)
    encoder = train_tokenizer.FlexTokEncoderModel(**REAL_ENCODER)
    token_places.start_at_places(encoder, decoder)
    heads = decoder.config.dim // decoder.config.head_dim
    with torch.no_grad():
        condition = decoder.condition(torch.rand(4, 256, 4) * 2 - 1, [256] * 4)
        patches = decoder.embed(torch.randn(4, 16, 16, 16)).flatten(1, 2)
        x = normalize(torch.cat([patches, condition.tokens], 1))
        seen = []
        for block in decoder.module_dict["dec_transformer"].blocks[:2]:
            query, key = (
                normalize(layer(x).unflatten(-1, (heads, -1))).transpose(1, 2)
                for layer in (block.attn.wq, block.attn.wk)
            )
            weights = (query @ key.transpose(-1, -2) * 8 / decoder.config.head_dim).softmax(-1)
            seen.append(weights[:, :, :64, 64:].mean(0))  # [heads, patches, tokens]
    cells, marks = token_places.token_cells(256), token_places.token_marks(256)
    for token, (cell, mark) in enumerate(zip(cells, marks, strict=True)):
        if cell is None:
            assert seen[1][mark % heads, :, token].mean() > 0.1
        else:
            at_its_place = seen[0][:, cell[0] * 8 + cell[1], token]
            assert at_its_place[mark] > 0.1 and at_its_place[mark] > 3 * at_its_place.sort().values[-2]


def test_the_reader_puts_tokens_back_to_their_places():
    config = {**SIZES, "num_registers": 256, "patch_size": (2, 2), "in_channels": 4}
    reader = token_readers.PlaceReader(config)
    codes = torch.rand(2, 200, len(SIZES["levels"]), requires_grad=True)
    latents = torch.zeros(2, 4, 16, 16)
    free, digits = token_places.FREE, len(SIZES["levels"])
    with torch.no_grad():  # read the second round's first number into every latent of the place
        for parameter in reader.parameters():
            parameter.zero_()
        reader.read.weight[:, digits] = 1.0
        reader.overall.bias += 3.0
    latents += 3
    for index, (row, column) in enumerate(token_places.scattered_places(64)):
        told = codes[:, free + 64 + index, 0].detach()[:, None, None, None]
        latents[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += told
    assert reader(codes, latents) < 1e-12
    reader(codes, latents + 1).backward()
    assert codes.grad[:, free + 64 : free + 128].abs().sum() > 0 == codes.grad[:, :free].abs().sum()
    assert reader(codes[:, : free + 64], latents) > 0.01  # missing tokens read as 0
    assert reader(codes[:, :3], torch.full_like(latents, 3.0)) < 1e-12


def test_labels_say_what_stands_where():
    ball = SceneObject("ball", "red", "plain", "large", 0.99, 0.01, 0.17)
    cat = SceneObject("cat", "black", "dotted", "small", 0.5, 0.74, 0.17 * np.e)
    labels = token_readers.scene_labels([Scene("room", ()), Scene("beach", (ball, cat))])
    assert labels.rows.tolist() == [1, 1] and labels.cells.tolist() == [7, 5 * 8 + 4]
    words = [[KINDS.index("ball"), COLOURS.index("red"), 0], [KINDS.index("cat"), COLOURS.index("black"), 2]]
    assert labels.words.tolist() == words
    assert labels.scales.tolist() == pytest.approx([0.0, 2.0])
    assert [PLACES[i] for i in labels.places] == ["room", "beach"]


def test_middle_patches_come_from_the_middle_block():
    trunk = Trunk(8, 4, 4, 1.0)
    x = torch.randn(1, 70, 8)
    with torch.no_grad(), token_readers.middle_patches(trunk) as seen:
        for block in trunk.blocks:
            x = block(x, None)
            if block is trunk.blocks[2]:
                middle = x
        assert len(seen) == 1 and seen[0].equal(middle[:, :64])
        trunk.blocks[2](x, None)
    trunk.blocks[2](x, None)  # outside of it nothing is collected
    assert len(seen) == 2


def test_the_gist_is_read_from_as_many_tokens_as_are_given():
    torch.manual_seed(2)
    reader = token_readers.GistReader({"num_registers": 256, "levels": (8, 5, 5, 5)})
    ball = SceneObject("ball", "red", "plain", "large", 0.5, 0.5, 0.2)
    labels = token_readers.scene_labels([Scene("room", (ball,))])
    codes, features = torch.rand(1, 40, 4) * 2 - 1, torch.randn(1, 32, 8, 8)

    def error(codes, count, labels=labels):
        return reader(codes, torch.tensor([count]), labels, features, torch.ones(1, 8, 8))[0]

    other = codes.clone()
    other[:, 5:] *= -1
    assert error(codes, 5).equal(error(other, 5)) and not error(codes, 6).equal(error(other, 6))
    assert error(codes[:, :5], 5).equal(error(codes, 5))
    assert not error(codes * 0, 4).equal(error(codes * 0, 5))  # a token of zeros is a token
    nothing = token_readers.scene_labels([Scene("room", ())])
    assert error(codes, 5, nothing).isfinite()
    with torch.no_grad():  # all places are alike: only the words ask for a cell
        reader.where.weight.zero_(), reader.where.bias.zero_()
    elsewhere = token_readers.scene_labels([Scene("room", (replace(ball, x=0.1),))])
    assert not error(codes, 5).equal(error(codes, 5, elsewhere))


def test_words_are_told_apart_from_words_drawn_with_the_other_one():
    torch.manual_seed(3)
    reader = token_readers.WordReader(6)
    vectors = torch.randn(1, 6)

    def slopes(kind, colour):
        """Which kinds' and which colours' scores the error of one object depends on."""
        item = SceneObject(kind, colour, "plain", "large", 0.5, 0.5, 0.2)
        reader.words.zero_grad()
        error, _ = reader(vectors, token_readers.scene_labels([Scene("room", (item,))]))
        error.backward()
        is_told = reader.words.bias.grad != 0
        return is_told[: len(KINDS)].tolist(), is_told[len(KINDS) :][: len(COLOURS)].tolist()

    for colour in COLOURS:
        for kind in KINDS:
            kinds, colours = slopes(kind, colour)
            assert kinds == [k == kind or not is_held_out_pair(colour, k) for k in KINDS]
            assert colours == [c == colour or not is_held_out_pair(c, kind) for c in COLOURS]


def test_features_that_point_the_same_way_are_alike():
    features, weights = torch.randn(2, 32, 8, 8), torch.ones(2, 8, 8)
    read = features.permute(0, 2, 3, 1)
    half = read.clone()
    half[:, :4] *= -1  # wrong where the weight is
    heavy = torch.cat([torch.full((2, 4, 8), 2.0), torch.zeros(2, 4, 8)], dim=1)
    assert float(token_readers.unlike_features(half, features, heavy)) == pytest.approx(2.0)
    assert float(token_readers.unlike_features(half, features, 2 - heavy)) == pytest.approx(0.0, abs=1e-6)
    assert float(token_readers.unlike_features(3 * read, features, weights)) == pytest.approx(0.0, abs=1e-6)
    assert float(token_readers.unlike_features(-read, features, weights)) == pytest.approx(2.0)
