"""Encoder and decoder: exact shapes of published sizes, exact speed-ups, strict loading, their refusals."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.flextok.blocks import attend, attention_mask, patchify, unpatchify
from pipelines.flextok.checkpoint import VAE_LAYOUT
from pipelines.flextok.positions import PositionTable
from pipelines.flextok.transformer_flexar import FlexARModel
from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel

# name: (encoder depth, decoder depth, encoder and decoder parameters, tensors of each)
PUBLISHED = {
    "d12-d12": (12, 12, 85_382_406, 172_448_320, 90, 124),
    "d18-d18": (18, 18, 287_326_086, 578_587_456, 132, 178),
    "d18-d28": (18, 28, 287_326_086, 2_169_735_744, 132, 268),
}


def block_keys(trunk, depth, width, hidden, modulated):
    """Name -> shape of a trunk's tensors."""
    found = {}
    for i in range(depth):
        base = f"module_dict.{trunk}.blocks.{i}."
        for name in ("wq", "wk", "wv", "proj"):
            found[f"{base}attn.{name}.weight"] = (width, width)
        found[f"{base}mlp.fc1.weight"] = found[f"{base}mlp.fc3.weight"] = (hidden, width)
        found[f"{base}mlp.fc2.weight"] = (width, hidden)
        if modulated:
            found[f"{base}adaLN_modulation.1.weight"] = (12 * width, width)
            found[f"{base}adaLN_modulation.1.bias"] = (12 * width,)
    return found


def encoder_keys(depth):
    width, hidden = 64 * depth, {12: 2048, 18: 3072, 28: 4778}[depth]
    return {
        "module_dict.enc_patch_emb.patch_proj.weight": (width, 64),
        "module_dict.enc_patch_emb.patch_proj.bias": (width,),
        "module_dict.enc_posemb_module.posembs": (1, width, 16, 16),
        "module_dict.enc_register_module.registers": (256, width),
        **block_keys("enc_transformer", depth, width, hidden, False),
        "module_dict.enc_to_latents.proj.weight": (6, width),
        "module_dict.enc_to_latents.proj.bias": (6,),
    }


def decoder_keys(depth):
    width, hidden = 64 * depth, {12: 2048, 18: 3072, 28: 4778}[depth]
    return {
        "module_dict.dec_from_latents.proj.weight": (width, 6),
        "module_dict.dec_from_latents.proj.bias": (width,),
        "module_dict.dec_registers_posemb_module.posembs": (1, 1, width, 256),
        "module_dict.dec_nested_dropout.dropout_mask_token": (width,),
        "module_dict.dec_latent_dropout.nullcond": (width,),
        "module_dict.dec_noise_patch_emb.patch_proj.weight": (width, 64),
        "module_dict.dec_noise_patch_emb.patch_proj.bias": (width,),
        "module_dict.dec_patches_posemb_module.posembs": (1, width, 16, 16),
        "module_dict.dec_time_embedder.mlp.0.weight": (width, 256),
        "module_dict.dec_time_embedder.mlp.0.bias": (width,),
        "module_dict.dec_time_embedder.mlp.2.weight": (width, width),
        "module_dict.dec_time_embedder.mlp.2.bias": (width,),
        **block_keys("dec_transformer", depth, width, hidden, True),
        "module_dict.dec_to_patches.adaLN_modulation.1.weight": (2 * width, width),
        "module_dict.dec_to_patches.adaLN_modulation.1.bias": (2 * width,),
        "module_dict.dec_to_patches.proj.weight": (64, width),
        "module_dict.dec_to_patches.proj.bias": (64,),
    }


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_tensors(name):
    down, up, encoder_count, decoder_count, encoder_tensors, decoder_tensors = PUBLISHED[name]
    with torch.device("meta"):
        encoder = FlexTokEncoderModel(dim=64 * down, depth=down)
        decoder = FlexTokDecoderModel(dim=64 * up, depth=up)
    for model, keys, count, tensors in (
        (encoder, encoder_keys(down), encoder_count, encoder_tensors),
        (decoder, decoder_keys(up), decoder_count, decoder_tensors),
    ):
        assert shapes(model) == keys and len(keys) == tensors
        assert sum(value.numel() for value in model.state_dict().values()) == count


@pytest.mark.parametrize(("channels", "count"), [(4, 83_653_863), (8, 83_709_419), (16, 83_821_011)])
def test_published_autoencoders_have_the_published_tensors(channels, count):
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**VAE_LAYOUT, latent_channels=channels)
    assert len(vae.state_dict()) == 248
    assert sum(value.numel() for value in vae.state_dict().values()) == count


@pytest.mark.parametrize(
    ("width", "depth", "condition", "millions"),
    [
        (768, 12, "text", 113), (1152, 18, "text", 382), (1664, 26, "text", 1152), (2304, 36, "text", 3058),
        (640, 10, "class", 49), (768, 12, "class", 85), (1024, 16, "class", 201), (1280, 20, "class", 393),
        (1536, 24, "class", 679), (1920, 30, "class", 1327),
    ],
)  # fmt: skip
def test_published_generators_have_the_published_sizes(width, depth, condition, millions):
    with torch.device("meta"):
        model = FlexARModel(width=width, depth=depth, num_heads=width // 64, condition=condition)
    names = shapes(model)
    assert names["ar_image_model.preprocessor.embedding.weight"] == (64_000, width)
    assert names["ar_image_model.preprocessor.positional_embedding"] == (256, width)
    assert names["ar_image_model.preprocessor.sos_token_embed"] == (1, 1, width)
    assert names["ar_image_model.head.linear.weight"] == (64_000, width)
    if condition == "class":
        assert names["ar_image_model.preprocessor.cls_embedding.weight"] == (1000, width)
    else:
        assert names["text_encoder.mlp.fc1.weight"] == (2048, 2048)
        assert names["text_encoder.mlp.fc2.weight"] == (width, 2048)
    trunk = sum(value.numel() for name, value in model.state_dict().items() if ".blocks." in name)
    # the paper counts 12 width^2 per layer of a class model; the released code rounds hidden widths up to 256
    assert trunk / 1e6 == pytest.approx(millions, rel=0.02 if condition == "text" else 0.06)


def test_masks_by_hand():
    full, causal, last = (attention_mask((2, 2), mode).int() for mode in ("full", "causal", "causal_last"))
    assert full.sum() == 16
    assert causal.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert last.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    with pytest.raises(ValueError, match="sideways"):
        attention_mask((2, 2), "sideways")


def test_patches_are_row_major_with_channels_last():
    x = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    patches = patchify(x, (2, 3))
    assert patches.shape == (1, 2, 2, 12)
    assert patches[0, 1, 0].tolist() == [x[0, c, 2 + y, z] for y in (0, 1) for z in (0, 1, 2) for c in (0, 1)]
    assert torch.equal(unpatchify(patches, (2, 3)), x)
    with pytest.raises(ValueError, match="4x6"):
        patchify(x, (3, 3))


@pytest.mark.parametrize("kind", ["none", "bool", "bias"])
def test_attention_is_the_same_with_and_without_gradients(kind):
    query, key, value = (torch.randn(2, 5, 3, 8) for _ in range(3))
    mask = {"none": None, "bool": attention_mask((2, 3), "causal_last"), "bias": torch.randn(2, 1, 1, 5)}[
        kind
    ]
    fused = attend(query, key, value, mask, 0.3)
    written_out = attend(query.requires_grad_(True), key, value, mask, 0.3)
    torch.testing.assert_close(fused, written_out)


def test_tables_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="spiral"):
        PositionTable(8, (2, 2), "spiral")
    with pytest.raises(ValueError, match="two axes"):
        PositionTable(8, (4,), "sincos")
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        PositionTable(8, (2, 2), "sincos").table((3, 2))
    stretched = PositionTable(8, (2, 2), "sincos", "interpolate")
    assert stretched.table((3, 5)).shape == (1, 8, 3, 5)
    assert torch.equal(stretched.table((2, 2)), stretched.posembs)
    product = PositionTable(8, (2, 3), "learnable_prod").table((2, 3))
    assert product.shape == (1, 8, 2, 3)


# exact speed-ups


@pytest.mark.parametrize("keep", [[1, 1], [3, 3], [16, 16], [2, 9], [1, 16]])
@pytest.mark.parametrize("nulls", [None, [False, True], [True, True]])
def test_collapsed_tokens_change_nothing(flextok, keep, nulls):
    decoder = flextok.decoder
    codes = decoder.quantizer.codes(torch.randint(0, 200, (2, 16)))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        apart, together = (
            decoder(x, decoder.condition(codes, keep, nulls, collapse=flag), t) for flag in (False, True)
        )
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    length = decoder.condition(codes, keep, nulls).tokens.shape[1]
    used = [0 if nulls and nulls[i] else k for i, k in enumerate(keep)]
    assert length == max(used) + (min(used) < 16)


@pytest.mark.parametrize("count", [1, 5, 16])
def test_truncated_encoding_changes_nothing(flextok, count):
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        short, cut = (flextok.encoder(latents, count, truncate=flag) for flag in (True, False))
        whole = flextok.encoder(latents)
    assert short.shape == (2, count, 3)
    torch.testing.assert_close(short, cut, rtol=0, atol=1e-5)
    torch.testing.assert_close(short, whole[:, :count], rtol=0, atol=1e-5)


def test_an_encoder_whose_tokens_all_see_each_other_is_not_truncated(flextok):
    torch.manual_seed(3)
    encoder = FlexTokEncoderModel(**{**flextok.encoder.config, "mask_mode": "full"}).eval()
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(encoder(latents, 4), encoder(latents)[:, :4])


def test_the_modulation_table_changes_nothing(flextok):
    decoder, times = flextok.decoder, [1.0, 0.5, 0.25]
    codes = decoder.quantizer.codes(torch.randint(0, 200, (2, 16)))
    condition, x = decoder.condition(codes, [4, 4]), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        table = decoder.modulation_table(times)
        for t, row in zip(times, table, strict=True):
            plain = decoder(x, condition, torch.tensor([t, t]))
            torch.testing.assert_close(decoder(x, condition, modulation=row), plain, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="either timesteps or their modulation"):
        decoder(x, condition)


def test_a_decoder_fixed_to_its_times_is_half_as_large_and_the_same(fresh_flextok, tmp_path):
    tokens = [torch.randint(0, 200, (5,))]
    before = fresh_flextok.sample_latents(tokens, generator=torch.Generator().manual_seed(1))
    count = sum(p.numel() for p in fresh_flextok.decoder.parameters())
    fresh_flextok.use_steps(3)
    assert sum(p.numel() for p in fresh_flextok.decoder.parameters()) < 0.6 * count
    after = fresh_flextok.sample_latents(tokens, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="fixed to 3 times"):
        fresh_flextok.sample_latents(tokens, options=fresh_flextok.flow_options(steps=4))
    with pytest.raises(ValueError, match="can't be saved"):
        fresh_flextok.decoder.save_pretrained(tmp_path)


def test_features_come_from_the_named_block(flextok):
    decoder, seen = flextok.decoder, []
    codes = decoder.quantizer.codes(torch.zeros(1, 1, dtype=torch.long))
    block = decoder.module_dict["dec_transformer"].blocks[1]
    hook = block.register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        _, features = decoder(
            torch.randn(1, 4, 8, 8), decoder.condition(codes, [1]), torch.ones(1), return_features=True
        )
    hook.remove()
    assert torch.equal(features, seen[0][:, :16].view(1, 4, 4, 32))


@pytest.mark.parametrize("count", [0, 17, -1])
def test_token_counts_out_of_range_are_refused(flextok, count):
    with pytest.raises(ValueError, match="1 to 16"):
        flextok.encoder(torch.randn(1, 4, 8, 8), count)
    with pytest.raises(ValueError, match="1 to 16"):
        flextok.decoder.condition(torch.zeros(1, 16, 3), [count])


def test_larger_pictures_than_the_table_are_refused(flextok):
    with pytest.raises(ValueError, match=r"\[5, 4\]"):
        flextok.encoder(torch.randn(1, 4, 10, 8))
    with pytest.raises(ValueError, match="don't divide"):
        flextok.encoder(torch.randn(1, 4, 7, 8))


# strict loading


def damage(folder, change):
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_models_load_strictly(flextok, tmp_path):
    flextok.encoder.save_pretrained(tmp_path)
    name = "module_dict.enc_to_latents.proj.bias"
    whole = FlexTokEncoderModel.from_pretrained(tmp_path)
    assert all(value.equal(flextok.encoder.state_dict()[key]) for key, value in whole.state_dict().items())
    damage(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=f"missing {name}"):
        FlexTokEncoderModel.from_pretrained(tmp_path)
    damage(tmp_path, lambda tensors: tensors.update({name: torch.zeros(3), "stranger": torch.zeros(1)}))
    with pytest.raises(ValueError, match="unknown stranger"):
        FlexTokEncoderModel.from_pretrained(tmp_path)
    damage(tmp_path, lambda tensors: (tensors.pop("stranger"), tensors.update({name: torch.zeros(4)})))
    with pytest.raises(ValueError, match="enc_to_latents|shape"):
        FlexTokEncoderModel.from_pretrained(tmp_path)


def test_pickled_weights_are_not_opened(flextok, tmp_path):
    flextok.encoder.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(flextok.encoder.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        FlexTokEncoderModel.from_pretrained(tmp_path)
