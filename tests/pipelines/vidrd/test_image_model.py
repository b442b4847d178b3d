"""Folders with layers along time alone, over the image model beside them: published, checked, opened."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from pipelines import VidRDPipeline
from pipelines.storybook.text import build_clip_tokenizer
from pipelines.vidrd import publish
from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.image_model import LAYERS, image_folder, image_model_beside, open_autoencoder, open_unet
from pipelines.vidrd.train_video import TEMPORAL
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel, is_temporal
from pipelines.weights import IMAGE_MODEL, verify_folder
from tests.pipelines.vidrd.conftest import UNET, VAE, ddim, shake, tiny_text

IMAGE_UNET = {
    **UNET,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A models' directory as it is published: `storybook-sd`, half precision, and `storybook-video` over it.

    Returns:
        The directory, and a pipeline of the same weights.
    """
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tokenizer = build_clip_tokenizer()
    image, vae = (shake(UNet2DConditionModel(**IMAGE_UNET)), shake(AutoencoderKL(**VAE), scale=0.02))
    parts = {"text_encoder": tiny_text(tokenizer), "tokenizer": tokenizer, "scheduler": ddim()}
    stock = StableDiffusionPipeline(
        vae=vae.half(), unet=image.half(), **parts, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    stock.save_pretrained(root / "storybook-sd")
    unet = over(VidRDUNet3DModel.from_unet2d(image.float(), **TEMPORAL))
    decoder = over(VidRDAutoencoderKL.from_image_vae(vae.float()))
    save_run(root / "states/video", unet.state_dict(), trained=unet)
    save_run(
        root / "states/decoder", {f"vae.{k}": v for k, v in decoder.state_dict().items()}, decoder, "vae."
    )
    for part in ("video", "decoder"):
        write(root, part)
    return root, VidRDPipeline(vae=decoder, unet=unet, **parts)


def over(model):
    """Random temporal layers of numbers that half precision holds."""
    image = {name: value.clone() for name, value in model.state_dict().items() if not is_temporal(name)}
    shake(model, seed=3)
    model.load_state_dict({**model.half().float().state_dict(), **image})
    return model


def save_run(state, weights, trained, prefix=""):
    """A finished run, which computes in bf16: frozen weights are rounded."""
    names = {f"{prefix}{name}" for name in trained.state_dict() if is_temporal(name)}
    state.mkdir(parents=True)
    rounded = {k: v if k in names else v.bfloat16().float() for k, v in weights.items()}
    torch.save({name: value.half() for name, value in rounded.items()}, state / "ema.pt")


def write(root, part, folder="storybook-video"):
    folders = ["--folder", str(root / folder), "--parts", str(root / "storybook-sd")]
    publish.main([part, "--state", str(root / "states" / part), *folders])


@pytest.fixture
def models(published, tmp_path):
    """A copy that may be changed."""
    for name in ("storybook-sd", "storybook-video"):
        shutil.copytree(published[0] / name, tmp_path / name)
    return tmp_path


def test_the_folder_holds_its_sampler_and_layers_along_time_and_nothing_else(published):
    folder = published[0] / "storybook-video"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    layers = {f"{part}/{name}" for part in ("unet", "vae") for name in ("config.json", LAYERS)}
    assert names == {"model_index.json", "scheduler/scheduler_config.json", *layers}
    for part in ("unet", "vae"):
        stored = load_file(folder / part / LAYERS)
        assert all(is_temporal(name) and value.dtype == torch.float16 for name, value in stored.items())
    assert verify_folder(folder) == []


def test_opened_it_is_the_whole_model(published):
    root, whole = published
    opened = VidRDPipeline.from_pretrained(root / "storybook-video")
    for part in ("unet", "vae", "text_encoder"):
        expected, found = (getattr(pipeline, part).state_dict() for pipeline in (whole, opened))
        assert found.keys() == expected.keys()
        assert all(found[name].equal(value) for name, value in expected.items()), part
        assert not getattr(opened, part).training
    assert opened.unet.config.temp_embed_at == "attention" and isinstance(opened.vae, VidRDAutoencoderKL)
    assert type(opened.scheduler) is type(whole.scheduler)
    films = [
        pipeline("a red ball", num_clips=2, num_frames=4, num_inference_steps=2, output_type="pt",
                 overlap_frames=2, generator=torch.Generator().manual_seed(1)).frames
        for pipeline in (whole, opened)
    ]  # fmt: skip
    assert films[0].equal(films[1])
    assert open_unet(root / "storybook-video").state_dict().keys() == whole.unet.state_dict().keys()


def test_dtypes_and_given_parts_are_as_ever(published):
    folder = published[0] / "storybook-video"
    half = VidRDPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.unet.dtype == half.vae.dtype == half.text_encoder.dtype == torch.bfloat16
    mixed = VidRDPipeline.from_pretrained(folder, dtype={"unet": torch.float16, "default": torch.float32})
    assert (mixed.unet.dtype, mixed.vae.dtype) == (torch.float16, torch.float32)
    vae = open_autoencoder(folder)
    assert VidRDPipeline.from_pretrained(folder, vae=vae).vae is vae


def test_saved_elsewhere_it_holds_all_parts(published, tmp_path):
    opened = VidRDPipeline.from_pretrained(published[0] / "storybook-video")
    folder = tmp_path / "alone/storybook-video"
    opened.save_pretrained(folder)
    assert IMAGE_MODEL not in json.loads((folder / "model_index.json").read_text())
    assert image_folder(folder) is None and not list(folder.rglob(LAYERS))
    again = VidRDPipeline.from_pretrained(folder)
    assert all(again.unet.state_dict()[k].equal(v) for k, v in opened.unet.state_dict().items())
    assert isinstance(open_autoencoder(folder), VidRDAutoencoderKL)


def test_without_a_decoder_of_its_own_it_uses_the_image_models(published, tmp_path):
    shutil.copytree(published[0] / "storybook-sd", tmp_path / "storybook-sd")
    (tmp_path / "states").symlink_to(published[0] / "states")
    write(tmp_path, "video")
    folder = tmp_path / "storybook-video"
    assert not (folder / "vae").exists() and verify_folder(folder) == []
    assert type(VidRDPipeline.from_pretrained(folder).vae) is AutoencoderKL


def test_another_image_model_is_refused_in_one_line_until_it_is_named(models):
    folder, file = models / "storybook-video", models / "storybook-sd" / UNET_FILE
    weights = load_file(file)
    save_file({name: value + 1 for name, value in weights.items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="trained over the storybook-sd beside it, but") as error:
        VidRDPipeline.from_pretrained(folder)
    assert UNET_FILE in str(error.value) and "\n" not in str(error.value)
    assert verify_folder(folder) == [f"../storybook-sd/{UNET_FILE} is damaged (its checksum differs)"]
    publish.main(["index", "--folder", str(folder), "--parts", str(models / "storybook-sd")])
    name = "conv_in.weight"
    assert VidRDPipeline.from_pretrained(folder).unet.state_dict()[name].equal((weights[name] + 1).float())
    shutil.rmtree(models / "storybook-sd")
    with pytest.raises(ValueError, match="beside it, but .* is missing"):
        VidRDPipeline.from_pretrained(folder)


def test_damaged_layers_are_named(models):
    folder = models / "storybook-video"
    file = folder / "unet" / LAYERS
    layers = load_file(file)
    layers.popitem()
    save_file(layers, file)
    with pytest.raises(ValueError, match="holds other layers than its configuration says"):
        VidRDPipeline.from_pretrained(folder)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="can't be read"):
        VidRDPipeline.from_pretrained(folder)


def test_image_weights_that_training_changed_are_published_too(published, tmp_path):
    root = published[0]
    weights = torch.load(root / "states/video/ema.pt")
    name = next(name for name in weights if ".attn1." in name)
    (tmp_path / "states/video").mkdir(parents=True)
    torch.save({**weights, name: weights[name] + 1}, tmp_path / "states/video/ema.pt")
    shutil.copytree(root / "storybook-sd", tmp_path / "storybook-sd")
    write(tmp_path, "video")
    folder = tmp_path / "storybook-video"
    assert set(load_file(folder / "unet" / LAYERS)) == {name} | {
        name for name in weights if is_temporal(name)
    }
    unet = VidRDPipeline.from_pretrained(folder).unet.state_dict()
    assert unet[name].equal((weights[name] + 1).half().float())


def test_without_the_image_model_beside_it_a_folder_holds_all_parts(published, tmp_path):
    root = published[0]
    publish.publish_video(root / "states/video", tmp_path / "far/storybook-video", root / "storybook-sd")
    folder = tmp_path / "far/storybook-video"
    assert image_folder(folder) is None and image_model_beside(root / "storybook-sd", folder) is None
    publish.publish_decoder(root / "states/decoder", folder, root / "storybook-sd")
    whole = VidRDPipeline.from_pretrained(folder)
    assert whole.unet is not None and isinstance(whole.vae, VidRDAutoencoderKL)
    assert not list(folder.rglob(LAYERS))
    over_image = tmp_path / "over"
    shutil.copytree(root / "storybook-sd", over_image / "storybook-sd")
    shutil.copytree(root / "storybook-video", over_image / "storybook-video")
    with pytest.raises(ValueError, match="whose layers need it there"):
        publish.write_index(over_image / "storybook-video", folder)
    with pytest.raises(ValueError, match="publish into another folder"):
        publish.publish_video(root / "states/video", over_image / "storybook-video", folder)
