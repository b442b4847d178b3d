"""The manifest and what is said about damaged model folders."""

import json

import pytest

from pipelines.storybook import cards
from pipelines.storybook.publish import renew_manifest
from pipelines.weights import list_files, read_manifest, sha256_of, verify_folder


def entry_of(folder):
    return {"folder": folder.name, "class": "FluxPipeline", "recipe": {"seed": 1}, "metrics": {"psnr": 33.0}}


@pytest.fixture
def listed(own_folder, monkeypatch):
    """A model folder with its entry in the manifest beside it."""
    monkeypatch.setattr(cards, "PURPOSE", {**cards.PURPOSE, "tiny": "Is tested.", "other": "Is another."})
    renew_manifest(own_folder.parent, "tiny", entry_of(own_folder))
    return own_folder


def a_weight_file(folder):
    return next((folder / "transformer").glob("*.safetensors"))


def test_checksums_are_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_manifest_tells_files_and_licence(listed):
    entry = read_manifest(listed.parent)["models"]["tiny"]
    assert entry["files"] == list_files(listed) and entry["license"] == "Apache-2.0"
    assert entry["bytes"] == sum(path.stat().st_size for path in listed.rglob("*") if path.is_file())
    assert "transformer/config.json" in entry["files"] and entry["class"] == "FluxPipeline"
    assert "Is tested." in (listed / "README.md").read_text() and "README.md" in entry["files"]
    assert not list(listed.parent.glob("*.part"))


def test_renewing_an_entry_leaves_the_others(listed):
    other = listed.parent / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    renew_manifest(listed.parent, "other", entry_of(other))
    models = read_manifest(listed.parent)["models"]
    assert set(models) == {"tiny", "other"} and set(models["other"]["files"]) == {"config.json", "README.md"}


def test_a_model_that_nobody_describes_is_refused_and_nothing_is_written(listed):
    before = (listed.parent / "MANIFEST.json").read_bytes()
    other = listed.parent / "storybook-new"
    other.mkdir()
    with pytest.raises(ValueError, match="no card can be written for storybook-new: say what it is for"):
        renew_manifest(listed.parent, "storybook-new", entry_of(other))
    assert (listed.parent / "MANIFEST.json").read_bytes() == before and not list(other.iterdir())


def test_every_model_of_storybook_has_a_purpose():
    expected = {"flextok", "video", "flux", "sd", "clip", "eyes", "judge", "texture"}
    assert {name.removeprefix("storybook-") for name in cards.PURPOSE} >= expected


def test_cards_show_shares_as_percent_and_factors_in_their_unit(listed):
    figures = {
        "right": {"value": 0.5, "n": 4, "ci95": [0.15, 0.85]},
        "seams": {"value": 1.03, "n": 6, "unit": "x", "ci95": [1.0, 1.25]},
        "psnr": {"value": 33.0, "n": 8, "unit": "dB"},
    }
    text = cards.card("tiny", {**entry_of(listed), "license": "Apache-2.0", "metrics": figures})
    assert "| right | 50.0% (95 %: 15.0% to 85.0%, n = 4) |" in text
    assert "| seams | 1.03 x (95 %: 1.0 to 1.25, n = 6) |" in text
    assert "| psnr | 33.0 dB (n = 8) |" in text


@pytest.mark.parametrize("content", ["[]", '{"model": {}}', '{"models": []}', "nothing"])
def test_something_else_is_no_manifest(content, tmp_path):
    (tmp_path / "MANIFEST.json").write_text(content)
    with pytest.raises(ValueError):
        read_manifest(tmp_path)


def test_a_whole_folder_has_no_problems(listed):
    assert verify_folder(listed) == []


def test_a_missing_folder_is_named(tmp_path):
    assert verify_folder(tmp_path / "gone") == [f"folder {tmp_path / 'gone'} is missing"]


def test_a_missing_file_is_named(listed):
    a_weight_file(listed).unlink()
    assert verify_folder(listed) == ["transformer/diffusion_pytorch_model.safetensors is missing"]


def test_a_truncated_file_is_named_once_with_its_sizes(listed):
    file = a_weight_file(listed)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    (problem,) = verify_folder(listed)
    assert problem == (f"transformer/{file.name} has {len(whole) // 2} bytes instead of {len(whole)}")


def test_a_flipped_bit_is_found(listed):
    file = a_weight_file(listed)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert verify_folder(listed) == [f"transformer/{file.name} is damaged (its checksum differs)"]


def test_without_a_manifest_unreadable_weights_are_found(own_folder):
    assert verify_folder(own_folder) == []
    file = a_weight_file(own_folder)
    file.write_bytes(file.read_bytes()[:50])
    (problem,) = verify_folder(own_folder)
    assert problem.startswith(f"transformer/{file.name} can't be read as safetensors")


def test_a_broken_manifest_does_not_hide_unreadable_weights(own_folder):
    (own_folder.parent / "MANIFEST.json").write_text(json.dumps({"models": []}))
    a_weight_file(own_folder).write_bytes(b"")
    assert len(verify_folder(own_folder)) == 1
