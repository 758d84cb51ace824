"""Zeros that are not there: they vanish in sums, stay zeros in products, and are tensors for everything else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spaces.residual.zero import Zero

VALUES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


def zero(*shape: int) -> Zero:
    return Zero(shape or VALUES.shape, VALUES)


@pytest.mark.parametrize(
    "add",
    [
        lambda x, z: x + z,
        lambda x, z: z + x,
        lambda x, z: torch.add(z, x),
        lambda x, z: torch.add(x, z, alpha=2.0),
        lambda x, z: x - z,
        lambda x, z: x.add_(z),
        lambda x, z: x + F.dropout(F.gelu(z), 0.1) * 0.5,
        lambda x, z: x + torch.tanh(z.transpose(1, 2).reshape(2, 4, 3)).transpose(1, 2) / 3,
        lambda x, z: x + x * z,
        lambda x, z: x + (zero(2, 3, 5) @ torch.ones(5, 4)),
        lambda x, z: x + F.scaled_dot_product_attention(z, z, z),
        lambda x, z: x + z.chunk(2, dim=-1)[0].repeat(1, 1, 2),
        lambda x, z: x + torch.cat([torch.tensor([]), z[:, :1], z[:, 1:]], dim=1),
    ],
)
def test_a_sum_is_the_other_term_itself(add: object) -> None:
    values = VALUES.clone()
    assert add(values, zero()) is values  # type: ignore[operator]
    assert torch.equal(values, VALUES)


def test_an_addition_in_place_gives_the_other_term() -> None:
    total = zero()
    total += VALUES
    assert total is VALUES


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda z: z + torch.ones(4), torch.ones(4).expand(2, 3, 4).sum()),
        (lambda z: torch.sigmoid(z), torch.tensor(12.0)),
        (lambda z: z.softmax(-1), torch.tensor(6.0)),
        (lambda z: z + 1.0, torch.tensor(24.0)),
        (lambda z: torch.cat([z, torch.ones(2, 3, 4)]), torch.tensor(24.0)),
        (lambda z: VALUES - z, VALUES.sum()),
        (lambda z: z - VALUES, -VALUES.sum()),
    ],
)
def test_other_functions_get_a_tensor(function: object, expected: Tensor) -> None:
    found = function(zero())  # type: ignore[operator]
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found.sum(), expected)


def test_it_says_of_itself_what_a_tensor_would() -> None:
    one = zero()
    assert (one.shape, one.size(1), one.dim(), one.ndim, len(one)) == (VALUES.shape, 3, 3, 3, 2)
    assert one.to(torch.float64).dtype == torch.float64
    assert one[:, 0].shape == (2, 4)
    assert one.view(6, -1).shape == (6, 4)
    assert one.numel() == 24
