"""Settings read the environment once, with numbers judged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from studio.errors import StudioError
from studio.settings import REPOSITORY, Settings


def test_defaults_without_any_variable() -> None:
    settings = Settings.from_env({"HOME": "/home/ada"})
    assert settings.data_dir == Path("/home/ada/.local/share/tessera-studio")
    assert (settings.host, settings.port, settings.on_space) == ("127.0.0.1", 7860, False)
    assert settings.max_side == 8192 and settings.max_prompt_chars == 20_000
    assert settings.weights_dir == REPOSITORY / "assets" / "weights"


def test_variables_win(tmp_path: Path) -> None:
    env = {
        "TESSERA_DATA_DIR": str(tmp_path),
        "TESSERA_WEIGHTS_DIR": str(tmp_path / "w"),
        "TESSERA_MODELS": os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")]),
        "TESSERA_PORT": "8000",
        "GRADIO_SERVER_PORT": "9000",
        "TESSERA_MAX_QUEUE": "3",
        "TESSERA_HOST": "0.0.0.0",
    }
    settings = Settings.from_env(env)
    assert settings.data_dir == tmp_path and settings.weights_dir == tmp_path / "w"
    assert settings.model_dirs == (tmp_path / "a", tmp_path / "b")
    assert (settings.port, settings.max_queue, settings.host) == (8000, 3, "0.0.0.0")
    assert Settings.from_env({**env, "TESSERA_PORT": ""}).port == 9000


def test_a_space_listens_to_everybody_and_paints_smaller() -> None:
    settings = Settings.from_env({"SPACE_ID": "someone/tessera", "HOME": "/home/user"})
    assert (settings.on_space, settings.host, settings.max_side) == (True, "0.0.0.0", 4096)
    assert settings.is_shared and not Settings.from_env({"SPACE_ID": "a/b", "TESSERA_SHARED": "0"}).is_shared


def test_shared_studios_and_names_of_proxies() -> None:
    settings = Settings.from_env(
        {"TESSERA_SHARED": "1", "TESSERA_ALLOWED_HOSTS": "Studio.example.org, .lan,,"}
    )
    assert settings.is_shared and settings.allowed_hosts == ("studio.example.org", ".lan")
    assert not Settings.from_env({}).is_shared and Settings.from_env({}).allowed_hosts == ()
    for name in ("*", "https://a.example", "a.example:80", "a b", "-a", "."):
        with pytest.raises(StudioError, match="TESSERA_ALLOWED_HOSTS: given"):
            Settings.from_env({"TESSERA_ALLOWED_HOSTS": name})


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "/"}])
def test_a_data_folder_is_found_without_a_home(home: dict[str, str]) -> None:
    assert Settings.from_env({**home, "TMPDIR": "/var/tmp"}).data_dir == Path("/var/tmp/tessera-studio")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TESSERA_PORT", "0"),
        ("TESSERA_PORT", "nan"),
        ("TESSERA_MAX_SIDE", "99999"),
        ("TESSERA_MAX_PROMPT_CHARS", "20001"),
    ],
)
def test_bad_numbers_are_named(name: str, value: str) -> None:
    with pytest.raises(StudioError, match=rf"{name}: given '?{value}"):
        Settings.from_env({name: value})


def test_only_settings_read_the_environment() -> None:
    # the page sets and guards variables of gradio, the shell one of OpenMP; they take no setting from one
    files = [path for path in (REPOSITORY / "studio").rglob("*.py") if path.parent.name != "ui"]
    files.remove(REPOSITORY / "studio" / "__main__.py")
    readers = [path.name for path in files if re.search(r"\benviron\b|\bgetenv\b", path.read_text("utf-8"))]
    assert readers == ["settings.py"]


def test_importing_the_shell_brings_in_nothing_heavy() -> None:
    program = (
        "import sys, studio.cli; studio.cli.build_parser(); "
        "print([m for m in ('PIL', 'torch', 'gradio', 'numpy', 'sqlite3', 'pipelines') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=20
    )
    assert answer.stdout.strip() == "[]", answer.stderr
