"""The manifest of embedded weights: what each model is, how it was made and measured, whether it is whole."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "MANIFEST.json"
# keys under which a folder names what it takes from the one beside it, and the file that has them
SHARED_VAE = "_shared_vae"  # see pipelines/shared_vae.py
IMAGE_MODEL = "_image_model"  # see pipelines/vidrd/image_model.py
SHARED_TEXT = "_shared_text"  # see pipelines/flextok/lent_text.py
LONGALIGN_T5 = "t5"  # see pipelines/longalign/parts.py
INDEXES = {
    SHARED_VAE: "model_index.json",
    IMAGE_MODEL: "model_index.json",
    SHARED_TEXT: "model_index.json",
    LONGALIGN_T5: "longalign/longalign.json",
}


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(weights_dir: str | Path) -> dict[str, Any]:
    """The manifest of a weights directory.

    Raises:
        OSError: it can't be read. ValueError: it isn't a manifest.
    """
    data = json.loads((Path(weights_dir) / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
        raise ValueError(f"{Path(weights_dir) / MANIFEST} has no 'models' table")
    return data


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Path (relative, with slashes) -> sha256 and bytes of every file in a model folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in files
    }


def verify_folder(folder: str | Path) -> list[str]:
    """Problems of a model folder, each one sentence; empty when every file is there and whole.

    A folder without an entry in the manifest beside it is only checked for readable safetensors headers. What
    it takes from the folder beside it is checked as well.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"folder {folder} is missing"]
    problems = differences(folder, _listed(folder))
    for name, why in _unreadable(folder):
        problems.setdefault(name, f"{name} can't be read as safetensors: {why}")
    for key, index in INDEXES.items():
        try:
            problems |= differences(folder, files_beside(folder, key))
        except ValueError as error:
            problems[index] = str(error)
    return list(problems.values())


def differences(folder: Path, files: dict[str, dict[str, Any]]) -> dict[str, str]:
    """File -> one sentence, for each of `files` (as `list_files` gives them) that isn't so in the folder."""
    found = {}
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            found[name] = f"{name} is missing"
        elif path.stat().st_size != expected["bytes"]:
            found[name] = f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        elif sha256_of(path) != expected["sha256"]:
            found[name] = f"{name} is damaged (its checksum differs)"
    return found


def borrowed(source: Path, parts: Iterable[str], lender: Path) -> dict[str, Any] | None:
    """What an index has to say (under a key of `INDEXES`) to use parts of the folder `lender` beside it.

    Args:
        source: folder with the parts that the model was trained with.
        parts: their folders.
    Returns:
        None: the lender isn't there or holds other files.
    """
    files = {f"{part}/{name}": facts for part in parts for name, facts in list_files(source / part).items()}
    return None if differences(lender, files) else {"folder": lender.name, "files": files}


def files_beside(folder: str | Path, key: str) -> dict[str, dict[str, Any]]:
    """What the index of a folder takes from the one beside it: "../name/file" -> sha256 and bytes.

    Empty where the folder holds everything itself, or has no readable index.

    Args:
        key: one of `INDEXES`.
    Raises:
        ValueError: the index says something else than the name of a folder beside it and its files.
    """
    try:
        index = json.loads((Path(folder) / INDEXES[key]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(index, dict) or key not in index:
        return {}
    try:
        lender, files = index[key]["folder"], index[key]["files"]
        # an index from elsewhere must not lead out of the models' directory
        if not files or "/" in lender or not all(map(_stays_inside, (lender, *files))):
            raise ValueError(lender)
        return {
            f"../{lender}/{name}": {"sha256": str(facts["sha256"]), "bytes": int(facts["bytes"])}
            for name, facts in files.items()
        }
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{INDEXES[key]}: {key} doesn't name a folder and its files") from error


def lender_of(folder: str | Path, key: str, uses: str) -> Path | None:
    """The folder beside a model's from which it takes files; None: it holds them all itself.

    Args:
        key: one of `INDEXES`.
        uses: for the message, as in "uses the autoencoder of".
    Raises:
        ValueError: the folder beside it is missing or holds other files.
    """
    folder = Path(folder)
    files = files_beside(folder, key)
    if not files:
        return None
    lender = folder.parent / PurePosixPath(next(iter(files))).parts[1]
    if problems := list(differences(folder, files).values()):
        raise ValueError(f"{folder.name} {uses} {lender.name} beside it, but {problems[0]}")
    return lender


def lenders(folder: str | Path) -> list[Path]:
    """Folders beside a model's from which it takes files; none where its index is damaged."""
    try:
        names = [name for key in INDEXES for name in files_beside(folder, key)]
    except ValueError:
        return []
    return sorted({Path(folder).parent / PurePosixPath(name).parts[1] for name in names})


def _stays_inside(name: str) -> bool:
    """Whether a relative path with slashes can only lead further in, on any system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not any(part in ("..", "/") or "\\" in part or ":" in part for part in parts)


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of the folder's files; nothing where there is no readable manifest."""
    try:
        entries = read_manifest(folder.parent)["models"].values()
    except (OSError, ValueError):
        return {}
    files = [entry.get("files", {}) for entry in entries if entry.get("folder") == folder.name]
    return {name: expected for part in files for name, expected in part.items()}


def _unreadable(folder: Path) -> list[tuple[str, str]]:
    from safetensors import SafetensorError, safe_open

    found = []
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            found.append((path.relative_to(folder).as_posix(), str(error)))
    return found
