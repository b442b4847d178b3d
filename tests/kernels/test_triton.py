"""The Triton kernel without a GPU: interpreted numbers, and every shipped form compiled for two devices."""

import json
import os
import subprocess
import sys

import pytest
import torch

from pipelines.kernels.local_attention import backend_triton
from pipelines.kernels.local_attention.backend_triton import CONFIGS
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import BackendUnavailable, hierarchical_local_attention

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")]

TOLERANCES = {"half": 1e-3, "bfloat16": 8e-3, "512 tokens": 8e-3}


@pytest.fixture(scope="module")
def report(repository):
    settings = {"TRITON_INTERPRET": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernels.interpreted"]
    environment = {**os.environ, **settings}
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_interpreted_kernel_equals_the_reference(report):
    """Every mode, ragged grids, heads of 32 to 128 and of 48, batch 2, outputs that start as NaN."""
    compared = {name: found for name, found in report.items() if isinstance(found, list)}
    assert len(compared) == 10
    for name, (error, sums) in compared.items():
        assert error < TOLERANCES.get(name, 2e-6), name
        assert sums < 1e-5, name


@pytest.mark.slow
def test_interpreted_kernel_takes_a_cached_guide_and_reads_no_hidden_key(report):
    assert report["cached guide"] < 2e-6
    assert report["hidden keys"] is True


@pytest.mark.slow
def test_gradients_through_the_interpreted_kernel(report):
    assert report["gradients"] < 3e-6


def compile_form(config, item, capability, dim):
    """Compile as a launch on a device of that capability would."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipelines.kernels.local_attention.triton_kernel import attend as kernel

    constants = backend_triton.constants(config, dim)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    types = dict.fromkeys(("query", "key", "value", "output"), f"*{item}")
    types |= {"lse": "*fp32", "masks": "*i64", "seen": "*i64", "scale": "fp32"}
    types |= dict.fromkeys(("num_queries", "num_keys", "heads"), "i32") | dict.fromkeys(
        constants, "constexpr"
    )
    signature = {name: types.get(name, "*i32") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.head_dim}x{8 * c.item_bytes}bit")
def test_every_form_compiles_within_its_shared_memory(config, monkeypatch, tmp_path):
    """For H100 and H200 (9.0) and A100 (8.0); the figure in the table is the larger one of the two."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = {}
    for capability, half in ((90, "bf16"), (80, "fp16")):
        item = half if config.item_bytes == 2 else "fp32"
        compiled = compile_form(config, item, capability, config.head_dim)
        assert compiled.asm["cubin"]
        assert compiled.metadata.num_warps == config.warps
        found[capability] = compiled.metadata.shared
    assert max(found.values()) == config.shared_bytes
    assert config.shared_bytes <= 99 << 10


@pytest.mark.slow
def test_a_head_size_between_two_forms_compiles_with_masked_loads(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    config = CONFIGS[0]
    compiled = compile_form(config, "bf16", 90, 48)
    assert compiled.metadata.shared <= config.shared_bytes


def test_without_a_gpu_it_says_why():
    layout = AttentionLayout(3, (8, 8))
    query = torch.zeros(1, layout.length, 1, 32)
    with pytest.raises(
        BackendUnavailable, match="'triton' cannot run: needs a CUDA device.*TRITON_INTERPRET=1"
    ):
        hierarchical_local_attention(query, query, query, layout, backend="triton")
    assert "float64" in backend_triton.refusal(layout, query.double())


def test_a_form_is_chosen_by_head_size_and_dtype():
    def form(dim, dtype):
        config = backend_triton._config(torch.empty(1, 1, 1, dim, dtype=dtype))
        return None if config is None else (config.head_dim, config.item_bytes)

    assert form(24, torch.bfloat16) == (64, 2)
    assert form(48, torch.float16) == (64, 2)
    assert form(128, torch.bfloat16) == (128, 2)
    assert form(48, torch.float32) == (64, 4)
    assert form(128, torch.float32) is None and form(256, torch.float16) is None
