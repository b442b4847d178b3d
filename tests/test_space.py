"""The front matter of README.md, by the rules under which a Hugging Face Space starts a repository."""

import ast
import re
import tomllib
import unicodedata

import pytest
import yaml

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def front_matter(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    opening, block, rest = text.split("---\n", 2)
    assert opening == "", "the block has to start on the first line"
    assert rest.strip()
    return yaml.safe_load(block)


@pytest.fixture(scope="module")
def requirements(repository):
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    plain = [line.split("#")[0].strip() for line in lines]
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower(): line for line in plain if line}


def test_title_and_look(front_matter):
    assert front_matter["title"] == "Tessera Studio"
    assert len(front_matter["emoji"]) == 1
    assert unicodedata.category(front_matter["emoji"]) == "So"
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= COLOURS
    assert 0 < len(front_matter["short_description"]) <= 60
    assert front_matter["pinned"] is False
    assert all(isinstance(tag, str) for tag in front_matter["tags"])


def test_it_starts_the_entry_file_with_gradio(front_matter, repository, requirements):
    assert front_matter["sdk"] == "gradio"
    assert isinstance(front_matter["sdk_version"], str)
    low = requirements["gradio"].partition(">=")[2].partition(",")[0]
    assert front_matter["sdk_version"].startswith(low + ".")
    assert front_matter["app_file"] == "app.py"
    assert (repository / "app.py").is_file()


def test_the_entry_file_defines_demo_at_module_level(repository):
    source = (repository / "app.py").read_text(encoding="utf-8")
    names = [
        target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert "demo" in names
    assert len(source.splitlines()) < 40


def test_python_version_and_licence_agree_with_the_project(front_matter, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert front_matter["python_version"] in ("3.11", "3.12")
    assert project["requires-python"] == ">=3.11,<3.13"
    assert front_matter["license"] == project["license"].lower() == "apache-2.0"
    assert "Apache License" in (repository / "LICENSE").read_text(encoding="utf-8")[:200]


def test_requirements_are_ranges_that_the_platform_can_live_with(requirements):
    needed = {"torch", "diffusers", "transformers", "gradio", "xformers", "accelerate", "pillow"}
    assert needed <= set(requirements)
    assert not {"spaces", "huggingface-hub", "kernels"} & set(requirements)
    for line in requirements.values():
        assert ">=" in line and "==" not in line.split(";")[0], line
        assert not line.startswith("-"), "options such as index addresses belong to the person who installs"
    assert requirements["torch"] == "torch>=2.10,<2.14"
    assert 'platform_machine == "x86_64"' in requirements["xformers"]


def test_the_project_version_cannot_be_taken_for_the_hub_package_kernels(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = tuple(map(int, project["version"].split(".")))
    assert not (0, 18, 2) <= version < (0, 19)
