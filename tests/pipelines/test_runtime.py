"""What a machine offers, and how it is told."""

import os

import pytest
import torch

from pipelines import runtime


@pytest.mark.parametrize(
    ("cuda", "bf16", "expected"),
    [
        (True, False, ("cuda", "bfloat16")),
        (False, True, ("cpu", "bfloat16")),
        (False, False, ("cpu", "float32")),
    ],
)
def test_the_fastest_device_and_dtype_are_chosen(cuda, bf16, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda: bf16)
    chosen = runtime.choose_runtime()
    assert (chosen.device, chosen.dtype) == expected


def test_fast_bf16_is_either_instruction_set_and_none_where_torch_cannot_tell(monkeypatch):
    for name, found in (("_is_avx512_bf16_supported", False), ("_is_amx_tile_supported", True)):
        monkeypatch.setattr(torch.cpu, name, lambda found=found: found, raising=False)
    assert runtime.has_fast_bf16()
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not runtime.has_fast_bf16()


def test_memory_is_counted_in_bytes():
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 10_000_000 < runtime.available_bytes() <= pages
    assert 10_000_000 < runtime.peak_bytes() < pages


def test_without_meminfo_half_of_the_memory_is_taken_as_free(monkeypatch):
    monkeypatch.setattr(runtime, "Path", lambda _: (_ for _ in ()).throw(OSError))
    assert runtime.available_bytes() > 10_000_000


def test_the_report_says_what_the_doctor_prints():
    report = runtime.report()
    assert set(report) == {"device", "dtype", "attention"}
    assert report["device"] in ("cpu", "cuda") and report["attention"]
