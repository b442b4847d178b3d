"""The benchmarks: fair turns, honest memory, equal mathematics on both sides, and no ratio without proof."""

import json

import pytest
import torch

from benchmarks import attention, gpu, proof, run, timing
from benchmarks.proof import NotProven
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention


@pytest.fixture
def green(monkeypatch):
    """The op's tests are taken as run; those of this file look at what follows."""
    monkeypatch.setattr(attention, "require_green", lambda: None)


def test_turns_are_interleaved_and_the_first_round_does_not_count():
    turns = []
    calls = {name: (lambda n=name: turns.append(n)) for name in ("a", "b")}
    found = timing.interleaved(calls, 3)
    assert turns == ["a", "b"] * 4
    assert set(found) == {"a", "b"} and found["a"].least_s <= found["a"].busy_s
    turns.clear()
    timing.interleaved(calls, 3, is_warm=True)
    assert turns == ["a", "b"] * 3


def test_memory_of_a_call_is_its_peak():
    def call():
        torch.ones(16 << 20)  # 64 MiB, gone at once
        return torch.ones(1 << 20)

    found = timing.extra_mib(call)
    if found is not None:  # only Linux with glibc can tell
        assert 60 < found < 100


def test_gathered_windows_compute_the_same():
    layout = attention.windows_and_shared(32, (8, 6))
    tensors = attention.random_tensors(layout, torch.float32, batch=2)
    by_hand = attention.gathered(tensors, layout)
    torch.testing.assert_close(by_hand, hierarchical_local_attention(*tensors, layout), atol=1e-5, rtol=1e-5)


def test_rows_have_ratios_of_the_same_run(green):
    rows = {row["form"]: row for row in attention.window_table(32, torch.float32, 1, all_forms=True)}
    assert set(rows) == {
        "matrix products", "local", "gathered", "dense", "sliding box", "masked", "flex, eager"
    }  # fmt: skip
    assert rows["dense"]["vs_dense"] == 1.0 and rows["matrix products"]["of_peak"] == 1.0
    assert rows["local"]["error"] < 1e-5 and rows["local"]["backend"] == "sdpa"
    pairs = 1024 * (256 + 48 * 32)
    assert rows["local"]["gflops"] == pytest.approx(
        4 * 4 * 64 * pairs / rows["local"]["busy_ms"] / 1e6, rel=0.05
    )


def test_order_rows_count_blocks(green):
    rows = {row["order"]: row for row in attention.order_table(32, torch.float32, 1)}
    # counted by hand on 32 x 32: 4 rows per query block and 2 per key block; half windows and their quarters
    assert rows["raster"]["key_blocks"] == 8.5
    assert rows["window_raster"]["key_blocks"] == 10.0
    assert rows["window_hilbert"]["key_blocks"] == 7.5


def test_a_wrong_op_gets_no_ratio(monkeypatch):
    layout = AttentionLayout(3, (9, 7), (3, 2), window=4, radius=2)
    tensors = attention.random_tensors(layout, torch.float32)
    assert proof.require_agreement(tensors, layout) < 1e-5
    right = hierarchical_local_attention
    monkeypatch.setattr(proof, "hierarchical_local_attention", lambda *a, **k: right(*a, **k) * 1.001)
    with pytest.raises(NotProven, match="differs from the reference by"):
        proof.require_agreement(tensors, layout)


def test_red_tests_of_the_op_are_told_in_one_line():
    with pytest.raises(NotProven, match="the op's tests are red"):
        proof.require_green(("tests/kernels/no_such_file.py",))


def test_a_refused_case_prints_no_figure_and_fails(monkeypatch, capsys, tmp_path):
    def red():
        raise NotProven("the op's tests are red")

    monkeypatch.setattr(attention, "require_green", red)
    out = tmp_path / "rows.json"
    assert run.main(["windows", "--dtype", "float32", "--out", str(out)]) == 1
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed[1:] == [{"case": "windows", "refused": "the op's tests are red"}]
    assert json.loads(out.read_text())["rows"] == printed[1:]
    assert {"processor", "torch", "load_average"} <= set(printed[0])


def test_unknown_cases_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(["window"])
    assert "no case 'window'" in capsys.readouterr().err


def test_without_a_device_there_are_no_gpu_rows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.gpu_table() == []
