"""Networks that make floating-point numbers themselves, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spaces.execution.forward import in_double


class Casting(nn.Module):
    """Makes numbers of bytes in three ways, and casts to single precision inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        scaled = images.float() / 255 + images / 255 + images.to(torch.float32)
        return self.layer(scaled), [self.layer(scaled).float(), scaled.half()]


def test_a_network_in_double_precision_stays_there_whatever_it_casts() -> None:
    torch.manual_seed(0)
    images = torch.arange(8, dtype=torch.uint8).reshape(2, 4)
    network = Casting().double()
    with in_double():
        output, (cast, half) = network(images)
    assert {tensor.dtype for tensor in (output, cast, half)} == {torch.float64}
    exact = network.layer(images.double() / 255 * 2 + images.double())
    torch.testing.assert_close(output, exact, rtol=1e-6, atol=1e-6)
    assert (images / 255).dtype == torch.float32
