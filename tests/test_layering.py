"""The arrows between layers, read from the source: app -> studio -> pipelines -> kernels.

Also who may use which library, and names and sizes of files.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pipelines

REPOSITORY = Path(__file__).resolve().parents[1]
PRODUCT = ("app.py", "studio", "pipelines", "kernels")
BESIDE = ("tests", "benchmarks")  # may import every layer, and no layer may import them

# Rooms of pipelines/ by rank: a file imports lower ranks and its own room. Rank 1 holds modules that may
# know each other; the families (5) never do.
FAMILIES = ("scale_dit", "compass", "longalign", "flextok", "vidrd")
RANK = {
    "kernels": 0,
    **dict.fromkeys(("runtime", "weights", "shared_vae", "outputs"), 1),
    "modeling": 2,
    "training": 3,
    "storybook": 4,
    **dict.fromkeys(FAMILIES, 5),
    "loading": 6,
    "compose": 7,
    "__init__": 8,
}
LAYER = {"kernels": 0, "pipelines": 1, "studio": 2, "app": 3}

# library -> path prefixes that may import it; a product file outside them may not
HOMES = {
    "gradio": ("app.py", "studio/ui/", "studio/api.py"),
    "sqlite3": ("studio/jobs/", "studio/gallery/"),
    "diffusers": ("pipelines/",),
    "transformers": ("pipelines/",),
    "peft": ("pipelines/",),
    "accelerate": ("pipelines/",),
    "safetensors": ("pipelines/",),
    "torch": ("pipelines/", "kernels/"),
    "triton": ("kernels/",),
    "xformers": ("kernels/",),
}
ONLY_INSIDE_BACKEND_FUNCTIONS = ("triton", "xformers")
NAMES_THAT_SAY_NOTHING = ("utils", "common", "helpers", "misc")
LOADING = "pipelines/loading.py"  # looks names up in the public table, so it imports `pipelines` itself
SINGLE_FILE_MODELS = ("transformer_", "unet_", "autoencoder_", "modeling_")


class Import(NamedTuple):
    file: str  # path from the root of the repository
    line: int
    module: str  # absolute dotted name; files of kernels/ are called pipelines.kernels.*
    at_top: bool  # outside of every function


def python_files(root: Path, tops: tuple[str, ...]) -> Iterator[Path]:
    for top in tops:
        path = root / top
        yield from sorted(path.rglob("*.py")) if path.is_dir() else filter(Path.exists, [path])


def dotted_name(file: Path, root: Path) -> str:
    parts = list(file.relative_to(root).with_suffix("").parts)
    if parts[0] == "kernels":
        parts.insert(0, "pipelines")
    return ".".join(parts)


def absolute_targets(node: ast.AST, name: str) -> list[str]:
    """Modules that one import statement of module `name` reaches; `from package import x` gives package.x."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = name.split(".")[: -node.level]
            base = ".".join([*package, base] if base else package)
        public = pipelines._MODULES if base == "pipelines" else {}
        return [public.get(alias.name, f"{base}.{alias.name}") for alias in node.names]
    called = node.func if isinstance(node, ast.Call) else None
    if isinstance(node, ast.Call) and getattr(called, "attr", getattr(called, "id", "")) == "import_module":
        first = node.args[0] if node.args else None
        return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    return []


def imports_of(file: Path, root: Path) -> Iterator[Import]:
    name, path = dotted_name(file, root), file.relative_to(root).as_posix()

    def visit(node: ast.AST, at_top: bool) -> Iterator[Import]:
        for module in absolute_targets(node, name):
            yield Import(path, getattr(node, "lineno", 0), module, at_top)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top and not inside)

    return visit(ast.parse(file.read_text(encoding="utf-8")), True)


def imports_in(root: Path, tops: tuple[str, ...]) -> list[Import]:
    return [found for file in python_files(root, tops) for found in imports_of(file, root)]


def layer_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def layer_violations(imports: list[Import]) -> list[str]:
    wrong = []
    for file, line, module, _ in imports:
        target = "kernels" if module.startswith("pipelines.kernels") else module.split(".")[0]
        if target in BESIDE or (target in LAYER and LAYER[target] > LAYER[layer_of(file)]):
            wrong.append(f"{file}:{line} imports {module}")
    return wrong


def room_of(path: str) -> str:
    """Room of a file of pipelines/: its folder, or its own name for a file at the root of pipelines/."""
    return path.split("/")[1].removesuffix(".py")


def room_violations(imports: list[Import]) -> list[str]:
    wrong = []
    for file, line, module, _ in imports:
        if not file.startswith("pipelines/") or module.split(".")[0] != "pipelines" or file == LOADING:
            continue
        own, target = room_of(file), (module.split(".") + ["__init__"])[1]
        if own != target and not (RANK[target] < RANK[own] or RANK[target] == RANK[own] == 1):
            wrong.append(f"{file}:{line} imports {module}")
    return wrong


def home_violations(imports: list[Import]) -> list[str]:
    wrong = []
    for file, line, module, at_top in imports:
        library = module.split(".")[0]
        if not file.startswith(HOMES.get(library, "")):
            wrong.append(f"{file}:{line} imports {library}")
        in_backend = Path(file).name.startswith("backend_")
        is_its_kernel = Path(file).name == f"{library}_kernel.py"  # Triton compiles functions of a module
        if library in ONLY_INSIDE_BACKEND_FUNCTIONS and not is_its_kernel and (at_top or not in_backend):
            wrong.append(f"{file}:{line} imports {library} outside of a function of a backend_*.py")
        if at_top and any(f"{name}_kernel" in module.split(".") for name in ONLY_INSIDE_BACKEND_FUNCTIONS):
            wrong.append(f"{file}:{line} imports {module} outside of a function")
    return wrong


def test_layers_import_downwards_only():
    assert layer_violations(imports_in(REPOSITORY, PRODUCT)) == []


def test_families_do_not_know_each_other_and_rooms_import_downwards():
    assert room_violations(imports_in(REPOSITORY, ("pipelines",))) == []


def test_every_room_of_pipelines_has_a_rank():
    rooms = {
        room_of(file.relative_to(REPOSITORY).as_posix()) for file in python_files(REPOSITORY, PRODUCT[2:3])
    }
    assert rooms and rooms <= set(RANK)


def test_libraries_stay_in_their_homes():
    assert home_violations(imports_in(REPOSITORY, PRODUCT)) == []


def test_the_kernels_folder_is_reached_as_pipelines_kernels_only():
    assert not (REPOSITORY / "kernels" / "__init__.py").exists()
    own_name = [
        found for found in imports_in(REPOSITORY, PRODUCT + BESIDE) if found.module.split(".")[0] == "kernels"
    ]
    assert own_name == []


def test_file_names_say_something_and_files_stay_readable():
    for file in python_files(REPOSITORY, PRODUCT):
        assert file.stem not in NAMES_THAT_SAY_NOTHING, file
        limit = 700 if file.name.startswith(SINGLE_FILE_MODELS) else 600
        assert len(file.read_text(encoding="utf-8").splitlines()) <= limit, f"{file} is over {limit} lines"


def planted(root: Path, path: str, source: str) -> list[Import]:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")
    return list(imports_of(file, root))


@pytest.mark.parametrize(
    ("path", "source", "check"),
    [
        ("kernels/norms/op.py", "from pipelines import runtime", layer_violations),
        ("pipelines/weights.py", "def f():\n    import studio.settings", layer_violations),
        ("studio/cli.py", "from app import demo", layer_violations),
        ("studio/cli.py", "from tests.conftest import find_chromium", layer_violations),
        ("pipelines/compass/pipeline_compass.py", "from ..scale_dit import layout", room_violations),
        ("pipelines/compass/train.py", "from pipelines import ScaleDiTPipeline", room_violations),
        ("pipelines/flextok/train.py", "import pipelines", room_violations),
        ("pipelines/training/loop.py", "from pipelines.storybook import scene", room_violations),
        ("pipelines/modeling/a.py", "import_module('pipelines.vidrd.unet_vidrd')", room_violations),
        ("studio/gallery/files.py", "import gradio as gr", home_violations),
        ("studio/registry.py", "from sqlite3 import connect", home_violations),
        ("studio/jobs/runner.py", "def f():\n    import torch", home_violations),
        ("kernels/norms/op.py", "from diffusers.models import attention", home_violations),
        ("kernels/norms/backend_triton.py", "import triton", home_violations),
        ("kernels/norms/backend_triton.py", "from .triton_kernel import attend", home_violations),
        ("kernels/norms/op.py", "def f():\n    import xformers.ops", home_violations),
    ],
)
def test_a_planted_violation_is_found(path, source, check, tmp_path):
    assert len(check(planted(tmp_path, path, source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("studio/jobs/runner.py", "import sqlite3\nfrom pipelines.compose import painting"),
        (
            "pipelines/compose/painting.py",
            "from pipelines import ScaleDiTPipeline\nfrom ..storybook import scene",
        ),
        ("pipelines/scale_dit/layout.py", "from pipelines.kernels.hilbert import order\nimport torch"),
        ("pipelines/runtime.py", "from pipelines import weights"),
        ("kernels/norms/backend_triton.py", "from .reference import rms_norm\ndef f():\n    import triton"),
        ("kernels/norms/triton_kernel.py", "import triton"),
        ("studio/ui/page.py", "import gradio as gr\nfrom studio import settings"),
    ],
)
def test_an_allowed_import_is_let_through(path, source, tmp_path):
    imports = planted(tmp_path, path, source)
    assert len(imports) >= 1
    assert layer_violations(imports) + room_violations(imports) + home_violations(imports) == []
