"""The manifest of embedded weights: what each model is, how it was made and measured, whether it is whole."""

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"


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

    A folder without an entry in the manifest beside it is only checked for readable safetensors headers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"folder {folder} is missing"]
    problems: dict[str, str] = {}  # by file: one sentence each
    for name, expected in _listed(folder).items():
        path = folder / name
        if not path.is_file():
            problems[name] = f"{name} is missing"
        elif path.stat().st_size != expected["bytes"]:
            problems[name] = f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        elif sha256_of(path) != expected["sha256"]:
            problems[name] = f"{name} is damaged (its checksum differs)"
    for name, why in _unreadable(folder):
        problems.setdefault(name, f"{name} can't be read as safetensors: {why}")
    return list(problems.values())


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
