"""Import times and the lazy public API, each measured in a fresh interpreter."""

import json
import os
import resource
import subprocess
import sys

import pytest

import pipelines

HEAVY = {"torch", "diffusers", "transformers", "gradio", "numpy", "PIL", "xformers"}
# CPU seconds, not seconds on the clock: another busy process must not turn these tests red.
LIMIT_S = 0.3


def cpu_seconds(arguments: list[str], folder: os.PathLike[str]) -> float:
    """Smallest CPU time (user and system) of three runs of this interpreter with the arguments."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.parametrize(
    "arguments",
    [["-c", "import pipelines"], ["-m", "studio", "--help"]],
    ids=["import-pipelines", "studio-help"],
)
def test_starting_is_quick(arguments, repository):
    assert cpu_seconds(arguments, repository) < LIMIT_S


@pytest.mark.parametrize("module", ["pipelines", "pipelines.loading", "studio"])
def test_importing_brings_in_nothing_heavy(module, repository):
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    loaded = set(json.loads(answer.stdout))
    assert module in loaded
    assert loaded & HEAVY == set()


# tells the setting at the first import of anything that could bring in torch, and stops there
WATCH = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("studio.") and name != "studio.__main__":
            print(os.environ["OMP_WAIT_POLICY"])
            sys.exit()

sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    "start", ["runpy.run_path('app.py')", "runpy.run_module('studio', run_name='__main__')"]
)
@pytest.mark.parametrize(("own", "told"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_waiting_threads_sleep_unless_the_person_wants_otherwise(start, own, told, repository):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | own
    answer = subprocess.run(
        [sys.executable, "-c", WATCH + start],
        cwd=repository,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.stdout.split() == [told]


def test_public_names_are_frozen_and_each_one_resolves():
    assert pipelines.__all__ == [
        "CompassPipeline",
        "FlexARPipeline",
        "FlexTokPipeline",
        "LongAlignPipeline",
        "ScaleDiTPipeline",
        "VidRDPipeline",
        "load_pipeline",
    ]
    assert set(pipelines.__all__) == set(pipelines._MODULES) <= set(dir(pipelines))
    for name in pipelines.__all__:
        value = getattr(pipelines, name)
        assert value.__name__ == name
        assert value.__module__ == pipelines._MODULES[name]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'pipelines' has no attribute 'StableCascade'"):
        _ = pipelines.StableCascade
