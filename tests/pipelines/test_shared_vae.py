"""Folders that take the autoencoder of the one beside them: published, checked, loaded, saved whole."""

import json
import shutil

import pytest
import torch

from pipelines import FlexTokPipeline
from pipelines.flextok import publish
from pipelines.shared_vae import LENDER, PART, load_shared_vae, open_vae, vae_beside
from pipelines.weights import SHARED_VAE, files_beside, lenders, list_files, verify_folder
from tests.pipelines.flextok.conftest import tiny_models

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def weights(build_vae, tmp_path):
    """A directory with `storybook-sd`, half precision as published, and a copy in another stock folder."""
    torch.manual_seed(5)
    build_vae().half().save_pretrained(tmp_path / LENDER / PART)
    shutil.copytree(tmp_path / LENDER / PART, tmp_path / "storybook-flux/vae")
    (tmp_path / LENDER / "README.md").write_text("a card")
    return tmp_path


@pytest.fixture
def borrower(weights, build_vae):
    """A tokenizer folder whose index names the autoencoder beside it."""
    folder = weights / "storybook-flextok"
    FlexTokPipeline(**tiny_models(build_vae)).save_pretrained(folder)
    shutil.rmtree(folder / "vae")
    lend(folder, weights / "storybook-flux/vae")
    return folder


def lend(folder, vae):
    path = folder / "model_index.json"
    index = {**json.loads(path.read_text()), SHARED_VAE: vae_beside(vae, folder)}
    path.write_text(json.dumps(index))


def change_index(folder, shared):
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), SHARED_VAE: shared}))


def test_only_the_same_bytes_are_shared(weights):
    vae, folder = weights / "storybook-flux/vae", weights / "new"
    shared = vae_beside(vae, folder)
    assert shared == {"folder": LENDER, "files": {f"vae/{k}": v for k, v in list_files(vae).items()}}
    assert set(shared["files"]) == {"vae/config.json", f"vae/{WEIGHTS}"}  # not the card of the lender
    file = weights / LENDER / PART / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert vae_beside(vae, folder) is None
    shutil.rmtree(weights / LENDER)
    assert vae_beside(vae, folder) is None


def test_the_autoencoder_beside_is_loaded_in_the_asked_dtype(borrower, weights):
    stored = open_vae(weights / "storybook-flux").state_dict()
    pipeline = FlexTokPipeline.from_pretrained(borrower)
    assert all(pipeline.vae.state_dict()[name].equal(value) for name, value in stored.items())
    assert pipeline.vae.dtype == pipeline.encoder.dtype == torch.float32
    assert FlexTokPipeline.from_pretrained(borrower, dtype=torch.float16).vae.dtype == torch.float16
    assert load_shared_vae(borrower, {"default": torch.bfloat16}).dtype == torch.bfloat16
    assert load_shared_vae(borrower, {"vae": torch.float16}).dtype == torch.float16
    given = open_vae(weights / "storybook-flux")
    assert FlexTokPipeline.from_pretrained(borrower, vae=given).vae is given
    assert open_vae(borrower).state_dict().keys() == stored.keys()


def test_saving_elsewhere_writes_it_whole(borrower, tmp_path):
    pipeline = FlexTokPipeline.from_pretrained(borrower)
    pipeline.save_pretrained(tmp_path / "elsewhere/model")
    folder = tmp_path / "elsewhere/model"
    assert SHARED_VAE not in json.loads((folder / "model_index.json").read_text())
    assert (folder / "vae" / WEIGHTS).is_file() and load_shared_vae(folder) is None
    again = FlexTokPipeline.from_pretrained(folder)
    assert all(again.vae.state_dict()[name].equal(v) for name, v in pipeline.vae.state_dict().items())


def test_a_missing_or_other_neighbour_is_told_in_one_line(borrower, weights):
    assert verify_folder(borrower) == [] and lenders(borrower) == [borrower.parent / LENDER]
    file = weights / LENDER / PART / WEIGHTS
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    expected = f"../{LENDER}/{PART}/{WEIGHTS} is damaged (its checksum differs)"
    assert verify_folder(borrower) == [expected]
    with pytest.raises(ValueError, match="storybook-flextok has no autoencoder of its own") as error:
        FlexTokPipeline.from_pretrained(borrower)
    assert str(error.value).endswith(expected) and "\n" not in str(error.value)
    shutil.rmtree(weights / LENDER)
    assert verify_folder(borrower)[0] == f"../{LENDER}/{PART}/config.json is missing"
    with pytest.raises(ValueError, match="uses that of storybook-sd beside it, but .* is missing"):
        FlexTokPipeline.from_pretrained(borrower)


@pytest.mark.parametrize(
    "shared",
    [
        None, [], "storybook-sd", {}, {"folder": "storybook-sd"}, {"folder": "storybook-sd", "files": {}},
        {"folder": "..", "files": {"config.json": {"sha256": "0", "bytes": 1}}},
        {"folder": "../else", "files": {"config.json": {"sha256": "0", "bytes": 1}}},
        {"folder": "/etc", "files": {"config.json": {"sha256": "0", "bytes": 1}}},
        {"folder": "storybook-sd", "files": {"../x": {"sha256": "0", "bytes": 1}}},
        {"folder": "storybook-sd", "files": {"config.json": {"sha256": "0"}}},
        {"folder": 3, "files": {"config.json": {"sha256": "0", "bytes": 1}}},
    ],
)  # fmt: skip
def test_an_index_that_names_anything_else_is_refused(borrower, shared):
    change_index(borrower, shared)
    with pytest.raises(ValueError, match="doesn't name a folder and its files"):
        FlexTokPipeline.from_pretrained(borrower)
    assert verify_folder(borrower) == [f"model_index.json: {SHARED_VAE} doesn't name a folder and its files"]
    assert lenders(borrower) == []


def test_folders_without_an_index_share_nothing(tmp_path):
    assert files_beside(tmp_path, SHARED_VAE) == {} and load_shared_vae(tmp_path / "gone") is None
    (tmp_path / "model_index.json").write_text("[]")
    assert files_beside(tmp_path, SHARED_VAE) == {}


def test_the_index_keeps_what_is_shared_when_the_generator_joins(borrower):
    shared = json.loads((borrower / "model_index.json").read_text())[SHARED_VAE]
    (borrower / "transformer").mkdir()
    publish.write_index(borrower)
    index = json.loads((borrower / "model_index.json").read_text())
    assert index["_class_name"] == "FlexARPipeline" and index[SHARED_VAE] == shared
    (borrower / "vae").mkdir()  # a later tokenizer that has its own again
    publish.write_index(borrower)
    assert SHARED_VAE not in json.loads((borrower / "model_index.json").read_text())
