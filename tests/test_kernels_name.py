"""The folder `kernels` must never stand in for the Hub's package of that name.

transformers and diffusers import `kernels` as soon as a compatible version is installed. With a package of
ours in its place every model import fails, on the users' machines and not on ours.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ("app.py", "studio", "pipelines", "kernels", "benchmarks", "tests")

# Every public name of the stand-in: takes any arguments, and returns what it decorates.
STAND_IN = """
class _Anything:
    def __init__(self, *args, **options):
        pass

    def __call__(self, target=None, *args, **options):
        return target

    def __or__(self, other):
        return self


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Anything,), {"__class_getitem__": classmethod(lambda cls, item: cls)})
"""

IMPORTS = """
import sys
from transformers import CLIPTextModel
from diffusers import FluxPipeline
from pipelines.kernels.hilbert.order import token_order
from pipelines.kernels.local_attention.op import hierarchical_local_attention
import pipelines

assert "kernels.hilbert" not in sys.modules
"""

FIND_PACKAGE = """
import kernels
import transformers.utils.import_utils as found

assert found.is_kernels_available(), "transformers does not accept the stand-in"
print(kernels.__path__[0])
"""


@pytest.fixture
def hub_package(tmp_path):
    """A folder that holds a distribution `kernels` of a version that transformers accepts."""
    package = tmp_path / "site" / "kernels"
    (package / "layer").mkdir(parents=True)
    for module in ("__init__", "layer/__init__", "layer/mode"):
        (package / f"{module}.py").write_text(STAND_IN, encoding="utf-8")
    metadata = tmp_path / "site" / "kernels-0.18.2.dist-info"
    metadata.mkdir()
    header = "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n"
    (metadata / "METADATA").write_text(header, encoding="utf-8")
    (metadata / "top_level.txt").write_text("kernels\n", encoding="utf-8")
    return tmp_path / "site"


def run(script, folder, path):
    """Run a script in a fresh interpreter that looks for modules in these folders first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(entry) for entry in path)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150)


@pytest.mark.slow
def test_models_import_with_a_compatible_hub_package(repository, hub_package):
    result = run(FIND_PACKAGE + IMPORTS, repository, [repository, hub_package])
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == str(hub_package / "kernels")


@pytest.mark.slow
def test_models_import_without_the_hub_package(repository):
    result = run(IMPORTS, repository, [repository])
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_the_stand_in_would_catch_a_package_of_ours(repository, hub_package, tmp_path):
    """The guard bites: a regular package named kernels in front hides the Hub's."""
    ours = tmp_path / "root" / "kernels"
    ours.mkdir(parents=True)
    (ours / "__init__.py").touch()
    result = run(FIND_PACKAGE + IMPORTS, tmp_path, [tmp_path / "root", hub_package, repository])
    assert result.stdout.strip() == str(ours)
    assert result.returncode == 1 and "cannot import name" in result.stderr


def test_the_folder_is_no_package(repository):
    assert (repository / "kernels").is_dir()
    assert not (repository / "kernels" / "__init__.py").exists()


def test_nothing_imports_the_bare_name(repository):
    offenders = [
        f"{path.relative_to(repository)}:{line}"
        for room in ROOMS
        for path in sorted([repository / room] if room.endswith(".py") else (repository / room).rglob("*.py"))
        if path.exists()
        for line in bare_imports(path)
    ]
    assert offenders == []


def bare_imports(path: Path) -> list[int]:
    """Lines that import `kernels` or something in it by that name."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        lines += [node.lineno for name in names if name.split(".")[0] == "kernels"]
    return lines


def test_bare_imports_are_found(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text("from pipelines import kernels\nimport kernels.hilbert\nfrom kernels import x\n")
    assert bare_imports(sample) == [2, 3]


def test_a_foreign_folder_is_not_taken_for_ours(repository, tmp_path):
    """Beside a `kernels` that is the Hub's, the import name refuses instead of adopting it."""
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "kernels.py").write_bytes((repository / "pipelines" / "kernels.py").read_bytes())
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    result = run("import pipelines.kernels", tmp_path, [tmp_path])
    assert result.returncode == 1
    assert "the kernels folder is missing" in result.stderr
