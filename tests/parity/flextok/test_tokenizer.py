"""Every recorded stage of the tokenizer: autoencoder, encoder, ids, decoder, sampler, training noise."""

import re

import pytest
import torch

from pipelines.flextok.flow_sampler import FlowOptions, add_noise, draw_noise, training_noise_level
from pipelines.flextok.positions import time_features
from pipelines.flextok.transformer_flextok import spread_modulation
from tests.parity.flextok.recorded import (
    assert_near,
    discover,
    guidance_scale,
    packed,
    packed_mask,
    tokenizer,
)

CASES = discover("tokenizer_")
pytestmark = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def lengths(pipeline, io):
    """(patches, registers) of each sample."""
    grid = pipeline.encoder.config.grid
    return [(grid[0] * grid[1], pipeline.num_tokens)] * len(io["in.images"])


def test_autoencoder(case):
    pipeline, settings = tokenizer(case)
    io = case.tensors("_io")
    moments = pipeline.vae.encode(io["in.images"]).latent_dist.parameters
    assert_near(moments, io["vae.moments"], 1e-4)
    assert_near(pipeline.encode_latents(io["in.images"]), io["vae.latents_scaled"], 1e-4)
    assert_near(pipeline.decode_latents(io["vae.latents_scaled"]), io["vae.decode_of_scaled_latents"], 1e-4)
    assert pipeline.vae.config.scaling_factor == settings.vae.scaling_factor


def test_encoder_stages_and_ids(case):
    pipeline, _ = tokenizer(case)
    encoder, io = pipeline.encoder, case.tensors("_io")
    latents = io["vae.latents_scaled"]
    patches = encoder.module_dict["enc_patch_emb"](latents)
    assert_near(patches, io["enc.patches"], 1e-4)
    placed = encoder.embed(latents)
    assert_near(placed, io["enc.patches_posemb"], 1e-4)
    registers = encoder.trunk(placed.flatten(1, 2), pipeline.num_tokens)
    assert_near(registers, io["enc.registers_out"], 1e-4)
    z = encoder(latents)
    assert_near(z, io["enc.latents_to_fsq"], 1e-4)
    quant, ids = encoder.quantizer.quantize(z)
    assert_near(quant, io["fsq.quant"], 1e-6)
    assert torch.equal(ids, io["fsq.tokens"])
    if io["in.images"].abs().max() <= 1:  # noise may leave the range that pictures have
        assert torch.equal(torch.stack(pipeline.encode((io["in.images"] + 1) / 2)), io["fsq.tokens"])


def test_packed_encoder_sequence_and_mask(case):
    pipeline, _ = tokenizer(case)
    encoder, io = pipeline.encoder, case.tensors("_io")
    mask = io["enc.mask"]
    ours = packed_mask(lengths(pipeline, io), encoder.config.mask_mode, len(mask))
    assert torch.equal(ours, mask)
    placed = encoder.embed(io["vae.latents_scaled"]).flatten(1, 2)
    registers = encoder.module_dict["enc_register_module"].registers.expand(len(placed), -1, -1)
    x = packed(torch.cat([placed, registers], 1), len(mask))
    assert_near(x, io["enc.packed_in"], 1e-4)
    real = sum(map(sum, lengths(pipeline, io)))
    visible = mask.bool() | torch.eye(len(mask), dtype=torch.bool)  # padding sees itself: no empty rows
    for block in encoder.module_dict["enc_transformer"].blocks:
        x = block(x, visible)
    assert_near(x[:, :real], io["enc.packed_out"][:, :real], 1e-4)


def test_truncated_encoding_gives_the_same_first_tokens(case):
    pipeline, _ = tokenizer(case)
    io = case.tensors("_io")
    for k in case.json["token_counts"]:
        z = pipeline.encoder(io["vae.latents_scaled"], k)
        assert_near(z, io["enc.latents_to_fsq"][:, :k], 1e-4)
        assert torch.equal(pipeline.tokenize(io["vae.latents_scaled"], k), io["fsq.tokens"][:, :k])


def test_decoder_stages(case):
    pipeline, _ = tokenizer(case)
    decoder, io = pipeline.decoder, case.tensors("_io")
    parts, config = decoder.module_dict, decoder.config
    (name,) = [name for name in io if name.startswith("dec.cond_after_dropout.k")]
    k = int(name.rsplit("k", 1)[1])
    ids = io["fsq.tokens"] * (
        torch.arange(pipeline.num_tokens) < k
    )  # recorded with short lists padded by id 0
    projected = parts["dec_from_latents"](decoder.quantizer.codes(ids))
    assert_near(projected, io["dec.cond_proj"], 1e-4)
    assert_near(parts["dec_registers_posemb_module"](projected), io["dec.cond_posemb"], 1e-4)
    features = time_features(io["dec.t"], config.time_features, config.max_timestep)
    assert_near(features, io["dec.temb_freq"], 1e-5)
    assert_near(parts["dec_time_embedder"](features), io["dec.temb"], 1e-4)
    assert_near(decoder.embed(io["in.noise"]), io["dec.patches_posemb"], 1e-4)
    assert torch.equal(packed_mask(lengths(pipeline, io), "full", len(io["dec.mask"])), io["dec.mask"])
    condition = decoder.condition(io["fsq.quant"], [k] * len(io["fsq.quant"]), collapse=False)
    assert_near(condition.tokens, io[name], 1e-4)
    x = torch.cat([decoder.embed(io["in.noise"]).flatten(1, 2), condition.tokens], 1)
    padded = io["dec.packed_in"].shape[1]
    assert_near(packed(x, padded), io["dec.packed_in"], 1e-4)
    step = decoder.modulation(io["dec.t"])
    for block, m in zip(parts["dec_transformer"].blocks, step.blocks, strict=True):
        x = block(x, None, spread_modulation(m, lengths(pipeline, io)[0]))
    real = x.shape[0] * x.shape[1]
    assert_near(packed(x, padded)[:, :real], io["dec.packed_out"][:, :real], 1e-4)
    layer = config.repa_layer
    _, seen = decoder(io["in.noise"], condition, io["dec.t"], return_features=True)
    assert_near(seen, io[f"dec.repa_patches_after_block{layer}"], 1e-4)


@pytest.mark.parametrize("collapse", [False, True])
def test_velocities(case, collapse):
    pipeline, _ = tokenizer(case)
    decoder, io, record = pipeline.decoder, case.tensors("_io"), case.json
    codes, noise, t = io["fsq.quant"], io["in.noise"], io["dec.t"]
    rows = len(codes)
    for k in record["token_counts"]:
        condition = decoder.condition(codes, [k] * rows, collapse=collapse)
        assert_near(decoder(noise, condition, t), io[f"dec.velocity.k{k}.cond"], 1e-4)
        null = decoder.condition(codes, [k] * rows, [True] * rows, collapse=collapse)
        assert_near(decoder(noise, null, t), io["dec.velocity.uncond"], 1e-4)
    mixed = decoder.condition(codes, record["mixed_k"], collapse=collapse)
    assert_near(decoder(noise, mixed, t), io["dec.velocity.mixed_k"], 1e-4)


@pytest.mark.parametrize("fast", [False, True])
def test_trajectories(case, fast):
    pipeline, _ = tokenizer(case)
    io, runs = case.tensors("_io"), 0
    switches = {"collapse_tokens": fast, "use_modulation_table": fast, "batch_guidance": not fast}
    for run in case.json["sampler_runs"]:
        name = f"sampler.k{run['k']}.{run['tag']}"
        if f"{name}.x" not in io:
            continue
        runs += 1
        options = FlowOptions(
            run["timesteps"], guidance_scale(run["guidance_scale"]), run["perform_norm_guidance"], **switches
        )
        states = [io["in.noise"]]

        def keep_state(pipe, step, time, tensors, states=states):
            states.append(tensors["latents"])

        ids = list(io["fsq.tokens"])
        x = pipeline.sample_latents(ids, run["k"], options, None, io["in.noise"], keep_state)
        assert_near(torch.stack(states), io[f"{name}.x"], 1e-3)
        if f"{name}.rgb" in io:
            assert_near(pipeline.decode_latents(x), io[f"{name}.rgb"], 1e-3)
    assert runs


def test_detokenize_with_a_seeded_generator(case):
    pipeline, _ = tokenizer(case)
    io, api = case.tensors("_io"), case.json["api_detokenize"]
    seed = int(re.search(r"seeded (\d+)", api["generator"]).group(1))
    noise = draw_noise(io["in.noise"].shape, torch.Generator().manual_seed(seed), "cpu")
    assert torch.equal(noise, io["api.detokenize.noise"])
    options = FlowOptions(
        api["timesteps"], guidance_scale(api["guidance_scale"]), api["perform_norm_guidance"]
    )
    generator = torch.Generator().manual_seed(seed)
    latents = pipeline.sample_latents(list(io["fsq.tokens"]), api["k"], options, generator)
    assert_near(pipeline.decode_latents(latents), io["api.detokenize.rgb"], 1e-3)


def test_decoding_works_without_a_number_of_steps(case):
    pipeline, _ = tokenizer(case)
    steps = []
    images = pipeline.decode(
        [[0]], generator=torch.Generator().manual_seed(0),
        callback_on_step_end=lambda pipe, step, time, tensors: steps.append(time),
    )  # fmt: skip
    assert len(steps) == 25 and images[0].size == (pipeline.side, pipeline.side)


def test_training_noise(case):
    pipeline, settings = tokenizer(case)
    io = case.tensors("_io")
    level = training_noise_level(io["train.u"], settings.training.mode_scale)
    assert_near(level, io["train.sigma"], 1e-6)
    assert_near(add_noise(io["vae.latents_scaled"], io["train.noise"], level), io["train.noised"], 1e-5)
