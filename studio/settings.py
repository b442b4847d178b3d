"""Where the studio keeps its things and how much it takes on. The only reader of the environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.checks import MAX_PROMPT_CHARS, MAX_SIDE, MIN_SIDE, parse_integer, shown
from studio.errors import StudioError

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_MAX_SIDE = 8192
SPACE_MAX_SIDE = 4096
# a name without port or scheme; "*" would switch the guard off, so it is none
_HOST_NAME = re.compile(r"\.?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """Frozen settings of one process.

    Args:
        data_dir: Folder for jobs and gallery; made on first use.
        weights_dir: Folder with MANIFEST.json and the embedded models.
        presets_dir: Folder with styles.json.
        model_dirs: Further model folders a person points at, in diffusers layout.
        host: Address to serve on.
        port: First port to try, 1 to 65535.
        max_prompt_chars: Longest prompt, at most 20,000 characters.
        max_side: Longest picture side in pixels, at most 16384.
        max_queue: Most jobs that may wait at once.
        loaded_models: Most models kept in memory at once.
        on_space: True on a Hugging Face Space.
        is_shared: Whether strangers use this studio at the same time: each sees only what is their own.
        allowed_hosts: Further host names that the studio answers to, for instance those of a reverse proxy;
            one that begins with a dot stands for everything below it.
    """

    data_dir: Path
    weights_dir: Path = REPOSITORY / "assets" / "weights"
    presets_dir: Path = REPOSITORY / "assets" / "presets"
    model_dirs: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int = 7860
    max_prompt_chars: int = MAX_PROMPT_CHARS
    max_side: int = DEFAULT_MAX_SIDE
    max_queue: int = 64
    loaded_models: int = 1
    on_space: bool = False
    is_shared: bool = False
    allowed_hosts: tuple[str, ...] = ()

    @property
    def gallery_dir(self) -> Path:
        """Folder of finished pictures; the only folder a page needs to be allowed to read."""
        return self.data_dir / "gallery"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from variables; empty ones count as not set.

        TESSERA_DATA_DIR, TESSERA_WEIGHTS_DIR, TESSERA_MODELS (folders joined by the system's path separator),
        TESSERA_HOST, TESSERA_PORT, TESSERA_MAX_PROMPT_CHARS, TESSERA_MAX_SIDE, TESSERA_MAX_QUEUE,
        TESSERA_LOADED_MODELS, TESSERA_SHARED (1 or 0; a Space is shared unless told otherwise) and
        TESSERA_ALLOWED_HOSTS (names joined by commas); GRADIO_SERVER_NAME and GRADIO_SERVER_PORT count where
        ours are not set.

        Raises:
            StudioError: a number is not one, or out of its range.
        """
        env = os.environ if environ is None else environ
        on_space = bool(env.get("SPACE_ID"))
        data = env.get("TESSERA_DATA_DIR", "").strip()
        weights = env.get("TESSERA_WEIGHTS_DIR", "").strip()
        models = [Path(part) for part in env.get("TESSERA_MODELS", "").split(os.pathsep) if part.strip()]
        host = env.get("TESSERA_HOST") or env.get("GRADIO_SERVER_NAME")
        port_name = "TESSERA_PORT" if env.get("TESSERA_PORT") else "GRADIO_SERVER_PORT"
        side = SPACE_MAX_SIDE if on_space else DEFAULT_MAX_SIDE
        return cls(
            data_dir=Path(data).expanduser().absolute() if data else _default_data_dir(env),
            weights_dir=Path(weights).expanduser().absolute() if weights else cls.weights_dir,
            model_dirs=tuple(path.expanduser().absolute() for path in models),
            host=host or ("0.0.0.0" if on_space else cls.host),
            port=_number(env, port_name, cls.port, 1, 65_535),
            max_prompt_chars=_number(env, "TESSERA_MAX_PROMPT_CHARS", MAX_PROMPT_CHARS, 1, MAX_PROMPT_CHARS),
            max_side=_number(env, "TESSERA_MAX_SIDE", side, MIN_SIDE, MAX_SIDE),
            max_queue=_number(env, "TESSERA_MAX_QUEUE", cls.max_queue, 1, 10_000),
            loaded_models=_number(env, "TESSERA_LOADED_MODELS", cls.loaded_models, 1, 16),
            on_space=on_space,
            is_shared=_number(env, "TESSERA_SHARED", int(on_space), 0, 1) == 1,
            allowed_hosts=_host_names(env.get("TESSERA_ALLOWED_HOSTS", "")),
        )


def _number(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    value = parse_integer(name, text)
    if not low <= value <= high:
        raise StudioError("bad_input", f"{name}: given {value}, allowed whole numbers from {low} to {high}.")
    return value


def _host_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise StudioError(
                "bad_input",
                f"TESSERA_ALLOWED_HOSTS: given {shown(name)}, allowed host names joined by commas, such as "
                "studio.example.org or .example.org.",
            )
    return names


def _default_data_dir(env: Mapping[str, str]) -> Path:
    """The folder each system keeps application data in; below the temporary one where there is no home."""
    home = env.get("USERPROFILE") or env.get("HOME") or ""
    if sys.platform == "win32" and env.get("LOCALAPPDATA"):
        return Path(env["LOCALAPPDATA"]) / "TesseraStudio"
    if env.get("XDG_DATA_HOME"):
        return Path(env["XDG_DATA_HOME"]).absolute() / "tessera-studio"
    if not home or home == os.sep:
        return Path(env.get("TMPDIR") or env.get("TEMP") or "/tmp").absolute() / "tessera-studio"
    if sys.platform == "darwin":
        return Path(home) / "Library" / "Application Support" / "TesseraStudio"
    return Path(home).absolute() / ".local" / "share" / "tessera-studio"
