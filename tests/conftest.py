"""What every test relies on: no network, few threads, fixed seeds, private folders.

Tests that this machine cannot run are left out with one printed line per reason.
"""

import importlib.util
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

_SCRATCH = Path(tempfile.mkdtemp(prefix="tessera-tests-"))

# Libraries read these once, when they are imported: they have to be set before the first test module is.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as app.py does, for the same reason
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TOKENIZERS_PARALLELISM="false",
    HF_HOME=str(_SCRATCH / "hf"),
    GRADIO_TEMP_DIR=str(_SCRATCH / "gradio"),
    XDG_CACHE_HOME=str(_SCRATCH / "cache"),
    XDG_DATA_HOME=str(_SCRATCH / "data"),
)
# A person's own settings must not decide what the tests see.
for _name in [name for name in os.environ if name.startswith("TESSERA_") and name != "TESSERA_PARITY_DIR"]:
    del os.environ[_name]
os.environ["TESSERA_DATA_DIR"] = str(_SCRATCH / "studio")
for _proxy in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(_proxy, None)
    os.environ.pop(_proxy.upper(), None)

# The same examples on every run and every machine; slow machines are the test timeout's business.
settings.register_profile("tessera", deadline=None, derandomize=True)
settings.load_profile("tessera")


class NetworkAccessError(RuntimeError):
    """A test tried to leave this machine. Not an OSError, so that no retry loop swallows it."""


def _is_loopback(host: str | bytes | None) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host or ""
    return name in {"", "localhost", "::1", "0.0.0.0", "::"} or name.startswith("127.")


def _refuse_foreign(sock: socket.socket, address: Any) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
        raise NetworkAccessError(f"tests may talk to this machine only, not to {address!r}")


def _install_network_guard() -> None:
    """Let sockets of this process reach the loopback interface only, names included."""
    connect, connect_ex, sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
    getaddrinfo = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse_foreign(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_foreign(self, address)
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        _refuse_foreign(self, rest[-1])
        return sendto(self, data, *rest)

    def guarded_getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        if not _is_loopback(host):
            raise NetworkAccessError(f"tests may look up this machine only, not {host!r}")
        return getaddrinfo(host, *rest, **options)

    replacements = {"connect": guarded_connect, "connect_ex": guarded_connect_ex, "sendto": guarded_sendto}
    for name, guarded in replacements.items():
        setattr(socket.socket, name, guarded)
    socket.getaddrinfo = guarded_getaddrinfo


_install_network_guard()


def find_chromium() -> str | None:
    """Path of the Chromium that browser tests drive: `$CHROMIUM` when set, else the first one on the path."""
    named = os.environ.get("CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((found for name in names if (found := shutil.which(name))), None)


def _missing_for(marker: str) -> str | None:
    """What this machine lacks to run tests with that marker, as the end of a sentence; None: nothing."""
    if marker == "browser":
        if importlib.util.find_spec("playwright") is None:
            return "the playwright package is not installed"
        return None if find_chromium() else "no Chromium found; install it or set CHROMIUM to its path"
    import torch  # only reached when tests with the marker were collected

    return None if torch.cuda.is_available() else "no CUDA device"


_NOT_RUN = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[_NOT_RUN] = []
    for marker in ("browser", "gpu"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _missing_for(marker) if marked else None
        if reason:
            items[:] = [item for item in items if item not in marked]
            config.hook.pytest_deselected(items=marked)
            config.stash[_NOT_RUN].append(f"{marker} tests that did not run: {len(marked)} ({reason})")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_NOT_RUN, []):
        terminalreporter.write_line(line, yellow=True)


def pytest_unconfigure() -> None:
    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random state; libraries that nobody imported are left alone."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def chromium_executable() -> Iterator[str]:
    """Path of Chromium for tests marked `browser`."""
    path = find_chromium()
    assert path, "a test that uses this fixture needs the marker `browser`"
    yield path
