"""Tests that the machine cannot run are left out aloud: one line per reason, and the rest still passes."""

import os
import subprocess
import sys

SOURCE = """
import pytest

@pytest.mark.browser
@pytest.mark.parametrize("page", [1, 2])
def test_page(page, chromium_executable):
    assert chromium_executable.endswith("browser-stand-in")

def test_plain():
    assert True
"""


def run_suite(repository, folder, chromium):
    (folder / "test_sample.py").write_text(SOURCE, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "pyproject.toml",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    result = subprocess.run(
        [*command, "--rootdir", str(repository), str(folder)],
        cwd=repository,
        env={**os.environ, "CHROMIUM": str(chromium)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_without_chromium_one_line_says_so_and_the_summary_stays_last(repository, tmp_path):
    lines = run_suite(repository, tmp_path, tmp_path / "nothing-here")
    told = [line for line in lines if line.startswith("browser tests that did not run: 2 (no Chromium found")]
    assert len(told) == 1
    assert "1 passed, 2 deselected" in lines[-1]


def test_with_chromium_nothing_is_left_out(repository, tmp_path):
    browser = tmp_path / "browser-stand-in"
    browser.write_text("#!/bin/sh\n", encoding="utf-8")
    browser.chmod(0o755)
    lines = run_suite(repository, tmp_path, browser)
    assert not any("did not run" in line for line in lines)
    assert "3 passed" in lines[-1] and "deselected" not in lines[-1]
