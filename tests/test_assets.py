"""What the repository carries: sizes, formats, hashes of weights, and what their configs promise."""

import hashlib
import json
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from pipelines.weights import IMAGE_MODEL, SHARED_TEXT, SHARED_VAE, differences, files_beside

REPOSITORY = Path(__file__).resolve().parents[1]
WEIGHTS = REPOSITORY / "assets" / "weights"
MANIFEST = WEIGHTS / "MANIFEST.json"

FILE_LIMIT = 10_000_000  # a Space refuses files over 10 MiB that are not in large-file storage
ASSETS_LIMIT = 90_000_000
PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
SHARING_CLASSES = {
    SHARED_VAE: ("FlexTokPipeline", "FlexARPipeline"),
    SHARED_TEXT: ("FlexARPipeline",),
    IMAGE_MODEL: ("VidRDPipeline",),
}
LENT_PARTS = {
    SHARED_VAE: ("vae",),
    SHARED_TEXT: ("text_encoder", "tokenizer"),
    IMAGE_MODEL: ("vae", "unet", "text_encoder", "tokenizer"),
}
SHARED_PARTS = ("vae", "text_encoder", "text_encoder_2")
TOP_LEVEL = {
    *(
        "app.py",
        "studio",
        "pipelines",
        "kernels",
        "assets",
        "tests",
        "benchmarks",
        "docs",
        "requirements.txt",
    ),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Makefile", "pyproject.toml"),
    *(
        ".ci",
        ".github",
        "Dockerfile",
        ".dockerignore",
        ".gitignore",
        ".gitattributes",
        "packages.txt",
        "pre-requirements.txt",
    ),
}


def tracked_files() -> dict[str, str]:
    """Path -> git's mode of every tracked file; without git (an unpacked archive) of every file there is."""
    if not (REPOSITORY / ".git").exists():
        files = [path for path in REPOSITORY.rglob("*") if path.is_file() and ".venv" not in path.parts]
        return {path.relative_to(REPOSITORY).as_posix(): "100644" for path in files}
    listing = subprocess.run(
        ["git", "ls-files", "--stage", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    entries = (entry.split("\t", 1) for entry in listing.split("\0") if entry)
    return {path: stage.split()[0] for stage, path in entries}


def present(paths: dict[str, str]) -> list[Path]:
    """The tracked files that exist: one that is being deleted is not a large file any more."""
    return [REPOSITORY / path for path in paths if (REPOSITORY / path).is_file()]


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_indexes() -> list[Path]:
    return sorted(WEIGHTS.rglob("model_index.json"))


def test_files_and_assets_stay_small():
    files = present(tracked_files())
    assert len(files) > 10
    assert [
        f"{path}: {path.stat().st_size} bytes" for path in files if path.stat().st_size >= FILE_LIMIT
    ] == []
    assets = sum(path.stat().st_size for path in files if path.is_relative_to(REPOSITORY / "assets"))
    assert assets < ASSETS_LIMIT


def test_the_tree_holds_no_pickles_links_or_modules_of_other_repositories():
    modes = tracked_files()
    assert [path for path in modes if Path(path).suffix.lower() in PICKLES] == []
    assert {path: mode for path, mode in modes.items() if mode not in ("100644", "100755")} == {}


def test_the_top_level_holds_the_agreed_names_only():
    assert {path.split("/")[0] for path in tracked_files()} - TOP_LEVEL == set()


@pytest.mark.skipif(not WEIGHTS.exists(), reason="this checkout carries no weights")
class TestWeights:
    def test_the_manifest_lists_every_file_with_its_hash_and_size(self):
        listed = {}
        for name, model in json.loads(MANIFEST.read_text(encoding="utf-8"))["models"].items():
            assert {"folder", "class", "license", "bytes", "recipe", "metrics", "files"} <= set(model), name
            assert model["recipe"] and model["metrics"], name
            folder = WEIGHTS / model["folder"]
            assert sum(entry["bytes"] for entry in model["files"].values()) == model["bytes"], name
            for path, entry in model["files"].items():
                file = folder / path
                listed[file] = entry
                assert file.stat().st_size == entry["bytes"], file
                assert file_hash(file) == entry["sha256"], file
        on_disk = {path for path in WEIGHTS.rglob("*") if path.is_file()} - {MANIFEST}
        assert on_disk and on_disk == set(listed)

    def test_every_class_that_an_index_names_can_be_imported(self):
        for index in model_indexes():
            parts = {
                key: value for key, value in json.loads(index.read_text()).items() if isinstance(value, list)
            }
            assert parts, index
            for part, (library, name) in parts.items():
                if library is None:
                    continue  # an optional part that this pipeline goes without
                assert hasattr(import_module(library), name), f"{index.parent.name}/{part}: {library}.{name}"
                is_lent = any(
                    part in parts and files_beside(index.parent, key) for key, parts in LENT_PARTS.items()
                )
                assert (index.parent / part).is_dir() or is_lent

    def test_parts_are_only_shared_by_folders_that_need_our_classes(self):
        """Stock diffusers knows nothing of sharing; and what is named beside a folder has to be there."""
        for index in model_indexes():
            for key, classes in SHARING_CLASSES.items():
                if files := files_beside(index.parent, key):
                    assert json.loads(index.read_text())["_class_name"] in classes, index
                    assert differences(index.parent, files) == {}
                    assert not (index.parent / "vae" / "diffusion_pytorch_model.safetensors").exists()

    def test_transformers_parts_ask_for_float32(self):
        # without it they load in the stored half precision, and the diffusers parts beside them in single
        for index in model_indexes():
            for part, value in json.loads(index.read_text()).items():
                config = index.parent / part / "config.json"
                if isinstance(value, list) and value[0] == "transformers" and config.exists():
                    assert json.loads(config.read_text()).get("dtype") == "float32", config

    def test_parts_that_folders_share_are_the_same_bytes(self):
        """Stock folders hold all they need, so shared parts are copies: one config, one set of weights."""
        seen: dict[tuple[str, str, str], tuple[str, Path]] = {}
        for weights in WEIGHTS.rglob("*.safetensors"):
            part = weights.parent
            if part.name not in SHARED_PARTS or files_beside(part.parent, IMAGE_MODEL):
                continue  # what lies over a lent image model is there because it differs
            config = json.loads((part / "config.json").read_text())
            key = (part.name, weights.name, json.dumps(config, sort_keys=True))
            assert seen.setdefault(key, (file_hash(weights), weights))[0] == file_hash(weights), (
                f"{weights} differs from {seen[key][1]}"
            )
        assert seen
