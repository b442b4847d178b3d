"""The step benchmark runs both forwards of one small model and checks that they are comparable."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from benchmarks import steps
from benchmarks.proof import NotProven


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "require_green", lambda: None)
    FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
    ).save_pretrained(tmp_path)  # fmt: skip
    return tmp_path


def test_rows_of_a_step(small):
    rows = {row["form"]: row for row in steps.step_table(576, torch.float32, 1, small)}
    assert set(rows) == {"ours", "stock", "guide, once per stage"}
    assert rows["stock"]["vs_stock"] == 1.0 and rows["ours"]["vs_stock"] > 0


def test_a_dense_size_is_refused(small):
    with pytest.raises(ValueError, match="painted densely"):
        steps.step_table(128, torch.float32, 1, small)


def test_forwards_that_differ_are_refused(small, monkeypatch):
    right = steps.denoise
    monkeypatch.setattr(steps, "denoise", lambda *a, **k: right(*a, **k) * 1.01)
    with pytest.raises(NotProven, match="differs from diffusers'"):
        steps.step_table(576, torch.float32, 1, small)
