"""Finite scalar quantisation by hand, its exact integers, its gradients, its refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.flextok.fsq import FiniteScalarQuantizer


def test_a_small_case_by_hand():
    quantizer = FiniteScalarQuantizer((4, 3))
    assert quantizer.num_codes == 12 and quantizer.basis == (1, 4)
    codes, ids = quantizer.quantize(torch.tensor([[0.0, 0.0], [-9.0, -9.0], [9.0, 9.0], [9.0, 0.0]]))
    # even levels are {-2, -1, 0, 1} / 2, odd ones {-1, 0, 1}; zero is digit L // 2
    assert codes.tolist() == [[0, 0], [-1, -1], [0.5, 1], [0.5, 0]]
    assert ids.tolist() == [2 + 4, 0, 3 + 8, 3 + 4]


@given(st.lists(st.integers(2, 27), min_size=1, max_size=2))
def test_every_id_survives_the_round_trip(levels):
    quantizer = FiniteScalarQuantizer(tuple(levels))
    ids = torch.arange(quantizer.num_codes)
    codes = quantizer.codes(ids)
    digits = (codes * torch.tensor([n // 2 for n in levels])).round().long() + torch.tensor(
        [n // 2 for n in levels]
    )
    assert torch.equal((digits * torch.tensor(quantizer.basis)).sum(-1), ids)
    assert codes.abs().max() <= 1
    assert len(codes.unique(dim=0)) == quantizer.num_codes


def test_ids_are_exact_where_float_sums_are_not():
    quantizer = FiniteScalarQuantizer((26, 27))
    middle = quantizer.codes(torch.arange(quantizer.num_codes))
    z = (
        (middle * torch.tensor([13.0, 13.0]) + torch.tensor([0.5, 0.0])) / torch.tensor([12.5125, 13.013])
    ).atanh()
    z = z - (torch.tensor([0.5, 0.0]) / torch.tensor([12.5125, 13.013])).atanh()
    assert torch.equal(quantizer.quantize(z)[1], torch.arange(quantizer.num_codes))


def test_rounding_lets_gradients_through():
    z = torch.tensor([[0.3, -0.7]], requires_grad=True)
    quantizer = FiniteScalarQuantizer((8, 5))
    quantizer.quantize(z)[0].sum().backward()
    smooth = torch.tensor([[0.3, -0.7]], requires_grad=True)
    (quantizer.bound(smooth) / torch.tensor([4.0, 2.0])).sum().backward()
    torch.testing.assert_close(z.grad, smooth.grad)


def test_half_precision_inputs_are_quantised_in_float32():
    z = torch.randn(50, 2).to(torch.bfloat16)
    quantizer = FiniteScalarQuantizer((8, 5))
    assert torch.equal(quantizer.quantize(z)[1], quantizer.quantize(z.float())[1])


@pytest.mark.parametrize("levels", [(), (1, 5), (8, 5.0), "885", (256, 256, 256, 2)])
def test_bad_levels_are_refused(levels):
    with pytest.raises(ValueError, match="levels"):
        FiniteScalarQuantizer(levels)


def test_bad_ids_and_widths_are_refused():
    quantizer = FiniteScalarQuantizer((8, 5))
    for ids in ([40], [-1], [3, 100]):
        with pytest.raises(ValueError, match="0 to 39"):
            quantizer.codes(torch.tensor(ids))
    with pytest.raises(ValueError, match="3 dimensions"):
        quantizer.quantize(torch.zeros(2, 3))
