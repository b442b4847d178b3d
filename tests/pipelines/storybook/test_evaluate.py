"""The one command that prints the whole table: its rows, what it prints of their figures, its cache."""

import argparse
import importlib
import json
import subprocess
from pathlib import Path

import pytest

from pipelines.storybook import evaluate
from pipelines.storybook.evaluate import ROWS, Row, figures, leaves, lines

SHARE = {"value": 0.25, "n": 8, "ci95": [0.0715, 0.5907]}
ROW = Row("storybook-eyes", "some.module")


def words(line):
    return " ".join(line.split())


def row_named(name):
    return next(row for row in ROWS if row.name == name)


def test_every_row_of_the_design_is_there():
    rows = {row.name: row for row in ROWS}
    assert len(rows) == len(ROWS)  # so no two write into one file
    wanted = (
        "eyes judge clip flux flux/fast-lora flux/detail flux/scale-dit-lora flux/compass-lora sd "
        "sd/vae sd/compass sd/longalign flextok video"
    )
    assert {f"storybook-{name}" for name in wanted.split()} == set(rows)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_has_a_module_that_knows_its_options(row, monkeypatch, tmp_path):
    """The command line is parsed by the module's own parser; no model is opened."""
    given = {}

    class Parsed(Exception):
        pass

    def parse(self, arguments=None, namespace=None):
        given.update(vars(original(self, arguments, namespace)))
        raise Parsed

    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    line = [*row.options, "--n", "3", "--out", str(tmp_path / "out.json")]
    line += ["--cache", str(tmp_path)] if row.paints else []
    with pytest.raises(Parsed):
        importlib.import_module(row.module).main(line)
    assert given["n"] == 3 and given["out"] == tmp_path / "out.json"


def test_shares_means_and_bare_numbers_are_printed():
    table = {
        "seen": {
            "right": SHARE,
            "psnr": {"value": 31.234, "n": 8, "unit": "dB"},
            "seams": {"value": 1.031, "n": 6, "unit": "x", "ci95": [1.0, 1.25]},
        },
        "seen/mirror": {"identity": SHARE, "border_ratio": 1.2345},  # as vidrd's films have them
        "n": 200,
    }
    right, psnr, seams, identity, border, count = lines(ROW, table)
    assert words(right) == "storybook-eyes seen right 25.0% n=8 95 % [7.1%, 59.1%]"
    assert words(psnr) == "storybook-eyes seen psnr 31.23 dB n=8"
    assert words(seams) == "storybook-eyes seen seams 1.03 x n=6 95 % [1.00, 1.25]"
    assert "seen/mirror" in identity and identity.split()[3] == "25.0%"
    assert words(border) == "storybook-eyes seen/mirror border_ratio 1.23"
    assert words(count) == "storybook-eyes n 200.00"


def test_only_what_a_row_shows_is_printed():
    table = {"seen/mirror": {"identity": SHARE, "direction": SHARE, "border_ratio": 1.2, "mawe": 3.0}}
    shown = lines(row_named("storybook-video"), table)
    assert [line.split()[2] for line in shown] == ["identity", "direction", "border_ratio"]


def test_lists_of_variants_and_deeper_tables_are_figures_too():
    compass = [
        {"variant": "plain", "part": "seen", "OA": 12.5, "conditional": 40.0, "by_eyes": {"OA": 90.0},
         "search": [{"budget": 1}]},
        {"variant": "compass", "part": "held_out", "OA": 13.5, "conditional": 60.0},
    ]  # fmt: skip
    found = {(part, name): figure["value"] for part, name, figure in leaves(compass)}
    assert found["plain/seen", "OA"] == 12.5 and found["compass/held_out", "conditional"] == 60.0
    assert found["plain/seen/by_eyes", "OA"] == 90.0
    longalign = {"n": 8, "readings": {"cut": {"attributes": {"all": SHARE}, "frechet": 2.0}}}
    found = {(part, name): figure for part, name, figure in leaves(longalign)}
    assert found["readings/cut/attributes", "all"] == SHARE
    assert found["readings/cut", "frechet"] == {"value": 2.0}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "WEIGHTS", tmp_path)
    for name in ("storybook-eyes", "storybook-flux", "storybook-judge", "storybook-sd/compass"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
    return tmp_path


@pytest.fixture
def ran(monkeypatch):
    """Commands that were run; each writes a table."""
    commands = []

    def run(command, **options):
        commands.append(command[2:])
        Path(command[command.index("--out") + 1]).write_text(json.dumps({"seen": {"right": SHARE}}))

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_what_was_measured_is_kept_until_the_weights_change(weights, ran, tmp_path):
    for _ in range(2):
        assert figures(ROW, 3, tmp_path / "cache") == {"seen": {"right": SHARE}}
    assert len(ran) == 1 and ran[0][:3] == ["some.module", "--n", "3"] and "--cache" not in ran[0]
    figures(ROW, 4, tmp_path / "cache")
    (weights / "storybook-judge/config.json").write_text("other")
    figures(ROW, 4, tmp_path / "cache")
    assert len(ran) == 3


def test_an_adapter_is_measured_again_when_its_model_changes(weights, ran, tmp_path):
    row = row_named("storybook-sd/compass")
    figures(row, 3, tmp_path / "cache")
    (weights / "storybook-sd/config.json").write_text("other")
    figures(row, 3, tmp_path / "cache")
    assert len(ran) == 2 and "--cache" in ran[0]


def test_slow_rows_have_a_most(weights, ran, tmp_path):
    figures(row_named("storybook-flux/detail"), 200, tmp_path / "cache")
    assert ran[0][ran[0].index("--n") + 1] == "6"
    figures(row_named("storybook-flux/detail"), 2, tmp_path / "cache")
    assert ran[1][ran[1].index("--n") + 1] == "2"


def test_the_command_prints_missing_measured_and_failed_rows(weights, monkeypatch, tmp_path, capsys):
    def answer(row, n, cache):
        if row.name == "storybook-flux":
            raise subprocess.CalledProcessError(2, "x")
        return {"seen": {"right": SHARE}}

    monkeypatch.setattr(evaluate, "figures", answer)
    names = ["storybook-eyes", "storybook-flux", "storybook-video"]
    assert evaluate.main(["--only", *names, "--cache", str(tmp_path)]) == 1
    eyes, flux, video = capsys.readouterr().out.splitlines()
    assert "25.0%" in eyes and "could not be measured: exit code 2" in flux
    assert words(video) == "storybook-video is not among the weights"
