"""The self-test: each back end's verdict, and a speed-up only from one that passed."""

import pytest
import torch

from pipelines.kernels import selftest
from pipelines.kernels.local_attention import backend_sdpa
from pipelines.kernels.local_attention.op import BACKENDS
from pipelines.kernels.selftest import measure_speedup, run_selftest

QUICK = ("reference", "sdpa", "explicit", "triton", "xformers")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_back_end_has_a_verdict(dtype):
    results = {result.backend: result for result in run_selftest(dtype=dtype, backends=QUICK)}
    assert tuple(results) == QUICK
    assert sum(result.is_chosen for result in results.values()) == 1
    for name in ("reference", "sdpa", "explicit"):
        found = results[name]
        assert found.status == "ran" and found.duration_ms > 0
        assert 0 < found.relative_error <= selftest.TOLERANCES[getattr(torch, dtype)]
        assert found.max_error < 0.1
        assert (found.reason == "chosen by auto") == found.is_chosen
    for name in ("triton", "xformers"):
        refused = results[name]
        assert refused.status == "refused" and refused.reason and refused.max_error is None


def test_all_back_ends_are_tried_by_default(monkeypatch):
    monkeypatch.setattr(selftest, "_try", lambda name, *rest: name)
    assert tuple(run_selftest()) == BACKENDS


def test_a_wrong_result_is_a_failure_and_forbids_speed_ups(monkeypatch):
    right = backend_sdpa.forward

    def wrong(*arguments):
        output, lse = right(*arguments)
        return output * 1.01, lse

    monkeypatch.setattr(backend_sdpa, "forward", wrong)
    result = run_selftest(backends=("sdpa",))[0]
    assert result.status == "failed" and "differs from the reference by 1.0e-02" in result.reason
    with pytest.raises(RuntimeError, match="'sdpa' failed: differs"):
        measure_speedup(side=8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_no_number_is_a_failure_without_figures(monkeypatch, value):
    right = backend_sdpa.forward

    def wrong(*arguments):
        output, lse = right(*arguments)
        output[..., 0] = value
        return output, lse

    monkeypatch.setattr(backend_sdpa, "forward", wrong)
    result = run_selftest(backends=("sdpa",))[0]
    assert (result.status, result.reason) == ("failed", "its output holds NaN or infinity")
    assert result.max_error is result.relative_error is result.duration_ms is None


def test_a_back_end_that_raises_is_reported(monkeypatch):
    def broken(*arguments):
        raise OSError("library not found")

    monkeypatch.setattr(backend_sdpa, "forward", broken)
    result = run_selftest(backends=("sdpa",))[0]
    assert (result.status, result.reason) == ("failed", "OSError: library not found")


def test_a_speed_up_names_its_back_end_and_size():
    found = measure_speedup(side=16, rounds=1)
    assert found.backend == "sdpa" and found.tokens == 64 + 16 * 16 + 16
    assert found.ratio == found.dense_ms / found.local_ms > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run_selftest(dtype="int8"), "dtype must be one of float32, float16, bfloat16, got 'int8'"),
        (lambda: run_selftest(backends=("cuda",)), "backends must be among .*, got 'cuda'"),
        (lambda: measure_speedup(side=4), "side must be at least 8 and rounds at least 1, got 4 and 3"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
