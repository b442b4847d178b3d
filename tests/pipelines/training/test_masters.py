"""fp32 masters: what goes where, and that training really reaches the model."""

import pytest
import torch
from torch import nn

from pipelines.training.masters import MasterWeights


def small_model():
    torch.manual_seed(0)
    return nn.ModuleDict({
        "embed": nn.Embedding(5, 8),
        "conv": nn.Conv2d(4, 8, 3),
        "linear": nn.Linear(8, 8),
        "norm": nn.LayerNorm(8),
        "thin": nn.Conv2d(8, 1, 1),
        "frozen": nn.Linear(3, 3).requires_grad_(False),
    })  # fmt: skip


@pytest.fixture
def weights():
    return MasterWeights(small_model(), torch.bfloat16, 0.99, adamw_names=("embed",))


def test_masters_are_the_fp32_values_and_the_model_computes_in_low_precision():
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = MasterWeights(model, torch.bfloat16, 0.99)
    assert "frozen.weight" not in weights.names
    for name, master in zip(weights.names, weights.masters, strict=True):
        assert master.dtype == torch.float32 and torch.equal(master.view(before[name].shape), before[name])
        assert torch.equal(model.get_parameter(name), before[name].to(torch.bfloat16))


def test_matrices_and_kernels_go_to_muon_and_the_rest_to_adamw(weights):
    matrices = {name for name, flag in zip(weights.names, weights.is_matrix, strict=True) if flag}
    assert matrices == {"conv.weight", "linear.weight"}  # the thin kernel is a vector, the embedding is named
    adamw, muon = weights.optimizers(1e-3, 2e-3, 0.01)
    assert (type(adamw).__name__, type(muon).__name__) == ("AdamW", "Muon")
    sizes = [sorted(tuple(p.shape) for g in o.param_groups for p in g["params"]) for o in (adamw, muon)]
    assert sizes[1] == [(8, 8), (8, 36)]
    assert sum(map(len, sizes)) == len(weights.masters)
    (only,) = weights.optimizers(1e-3, 0.0, 0.01)
    assert sum(len(group["params"]) for group in only.param_groups) == len(weights.masters)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_changed_master_changes_the_kernel_in_every_memory_layout(layout):
    """Masters copied into `flatten(1)` of a channels-last kernel land in a copy: the model never moves."""
    conv = nn.Conv2d(8, 8, 3).to(memory_format=layout)
    weights = MasterWeights(conv, torch.bfloat16, 0.99)
    before = conv.weight.detach().float().clone()
    with torch.no_grad():
        for master in weights.masters:
            master.add_(1.0)
    weights.publish(0)
    torch.testing.assert_close(conv.weight.float(), before + 1, rtol=0, atol=2e-2)
    assert conv.weight.is_contiguous(memory_format=layout)
    state = weights.state_dict()
    fresh = nn.Conv2d(8, 8, 3).to(memory_format=layout)
    MasterWeights(fresh, torch.bfloat16, 0.99).load_state_dict(state)
    assert torch.equal(fresh.weight, conv.weight) and torch.equal(fresh.bias, conv.bias)


def test_gradients_move_to_the_masters_and_are_clipped_together(weights):
    generator = torch.Generator().manual_seed(1)
    for parameter in weights.parameters[1:]:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    given = [None if p.grad is None else p.grad.float().flatten() for p in weights.parameters]
    expected = torch.cat([grad for grad in given if grad is not None]).norm()
    norm = weights.take_gradients(clip=0.5)
    assert norm == pytest.approx(float(expected), rel=1e-4)
    assert all(parameter.grad is None for parameter in weights.parameters)
    assert weights.masters[0].grad.eq(0).all()  # nothing came back for it
    for master, grad in zip(weights.masters[1:], given[1:], strict=True):
        torch.testing.assert_close(master.grad.flatten(), grad * 0.5 / norm, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_both_optimizers_learn_a_small_map(muon_lr):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))
    weights = MasterWeights(model, torch.bfloat16, 0.9)
    optimizers = weights.optimizers(1e-2, muon_lr, 0.0)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
    losses = []
    for step in range(60):
        loss = (model(x.bfloat16()).float() - x.roll(1, 1)).square().mean()
        loss.backward()
        weights.take_gradients(1.0)
        for optimizer in optimizers:
            optimizer.step()
        weights.publish(step)
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]


def test_small_steps_are_not_lost_in_low_precision():
    """bf16 alone would round each of these steps away."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    weights = MasterWeights(layer, torch.bfloat16, 0.0)
    for step in range(100):
        with torch.no_grad():
            weights.masters[0].add_(1e-3)
        weights.publish(step)
    assert float(layer.weight) == pytest.approx(1.1, rel=4e-3)


def test_the_averaged_state_has_the_models_names_shapes_and_buffers():
    model = nn.Sequential(nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(4))
    weights = MasterWeights(model, torch.bfloat16, 0.99)
    state = weights.ema_state(model)
    assert state.keys() == model.state_dict().keys()
    assert all(state[name].shape == value.shape for name, value in model.state_dict().items())
    assert state["0.weight"].dtype == torch.float16 and state["1.num_batches_tracked"].dtype == torch.int64
