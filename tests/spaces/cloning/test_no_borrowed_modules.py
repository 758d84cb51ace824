"""What copies a network elsewhere than in the surgery takes functions of its modules along: nothing of the original runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spaces.fusion.modules import fuse_activations
from spaces.quantization.batch_norm_folding import find_folds, fold_batch_norms
from spaces.quantization.fake_quantize import fake_quantizers
from spaces.quantization.record import quantize

INPUTS = torch.randn(2, 3, 6, 6)
BITS = {"folds": [["conv", "norm"]], "layers": {"conv": [8, None], "head": [8, None]}, "additions": {}, "learned": False}


class Bound(nn.Module):
    """Runs its layers by a bound method, a lambda and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.first, self.second = nn.LeakyReLU(0.5), nn.LeakyReLU(0.25)
        self.run = self.features
        self.last = lambda x: self.head(x.mean((2, 3)))
        self.activations = [lambda x: self.second(self.first(x))]

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activations[0](self.run(x)))


def quantized(model: nn.Module) -> nn.Module:
    return quantize(model, BITS)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fold": lambda model: fold_batch_norms(model, find_folds(model, INPUTS[:1])),
    "quantize": quantized,
    "fuse": lambda model: fuse_activations(model, INPUTS).model,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_runs_none_of_the_original_layers(name: str) -> None:
    torch.manual_seed(0)
    model = Bound().eval()
    expected = model(INPUTS)
    made = COPIES[name](model)
    ran: list[nn.Module] = []
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: ran.append(module))
    outputs = made(INPUTS)
    assert not ran
    if name != "quantize":
        torch.testing.assert_close(outputs, expected)


def test_quantizers_run_where_functions_run_the_layers() -> None:
    made = quantized(Bound().eval())
    quantizers = fake_quantizers(made)
    ran: set[int] = set()
    for quantizer in quantizers.values():
        quantizer.register_forward_hook(lambda module, *_: ran.add(id(module)))
    made(INPUTS)
    assert len(quantizers) == 2
    assert ran == {id(one) for one in quantizers.values()}
