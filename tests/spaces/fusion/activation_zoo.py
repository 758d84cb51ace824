"""Small networks whose activations are connected, in every way PyTorch has of writing one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(5)) * 3


class Code(nn.Module):
    """A convolution, and whatever code comes after it."""

    def __init__(self, code: Callable[[Code, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.eager = nn.ReLU(inplace=True)
        self.scalar = slopes(0.5)
        self.negative = slopes(-0.5, 0.25, -2.0, 0.0)
        self.weight = nn.Parameter(torch.tensor([0.25, 0.5, -0.5, 2.0]))
        self.code = code

    def forward(self, inputs: Tensor) -> Tensor:
        return self.code(self, inputs)


def slopes(*values: float) -> nn.PReLU:
    module = nn.PReLU(len(values))
    with torch.no_grad():
        module.weight.copy_(torch.tensor(values))
    return module


def layers(*activations: nn.Module) -> nn.Module:
    """Return a convolution with the activations behind it."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), *activations, nn.Conv2d(4, 2, 1)).eval()


class Untraceable(nn.Module):
    """A network that torch.fx can't trace: it decides by the size of its input."""

    def __init__(self, *activations: nn.Module, functional: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), *activations)
        self.functional = functional

    def forward(self, inputs: Tensor) -> Tensor:
        if min(inputs.shape[-2:]) < 4:
            return inputs
        outputs = self.features(inputs)
        return F.leaky_relu(F.leaky_relu(outputs, 0.5), 0.5) if self.functional else outputs


FUNCTIONAL: dict[str, tuple[Callable[[Code, Tensor], Tensor], int]] = {
    # Code, and how many activations fewer there should be.
    "functions": (lambda m, x: F.leaky_relu(F.relu(m.conv(x)), 0.2), 1),
    "torch": (lambda m, x: torch.relu(torch.clamp(torch.relu(m.conv(x)), 0, 6)), 2),
    "methods": (lambda m, x: m.conv(x).relu().clamp(-1, 1).clip(max=0.5), 2),
    "keywords": (lambda m, x: F.leaky_relu(input=F.hardtanh(m.conv(x), min_val=0.0, max_val=2.0), negative_slope=0.1), 1),
    "in place": (lambda m, x: F.leaky_relu_(F.relu(m.norm(m.conv(x)), inplace=True), 0.3), 1),
    "underscores": (lambda m, x: torch.relu_(m.conv(x)).clamp_(max=2).relu_(), 2),
    "relu6": (lambda m, x: F.relu6(F.relu6(m.conv(x))), 1),
    "parameter": (lambda m, x: F.prelu(F.prelu(m.conv(x), m.weight), m.weight), 1),
    "negative slopes": (lambda m, x: F.leaky_relu(F.prelu(m.conv(x), m.weight), 0.5), 1),
    "module used twice": (lambda m, x: m.scalar(m.scalar(m.conv(x))), 1),
    "shared prelu": (lambda m, x: F.leaky_relu(m.scalar(m.conv(x)), 0.5) + m.scalar(m.norm(m.conv(x))), 1),
    "branches": (lambda m, x: m.relu(m.scalar(m.conv(x))) + m.negative(F.leaky_relu(m.conv(x), 0.1)), 2),
    "chain of five": (lambda m, x: m.negative(m.scalar(F.leaky_relu(m.negative(F.leaky_relu(m.conv(x), 0.5)), 0.5))), 4),
    "identity": (lambda m, x: F.leaky_relu(F.leaky_relu(m.conv(x), 0.5), 2.0), 2),
    "in place behind": (lambda m, x: m.conv(x).relu().relu_(), 1),
    "two outputs read": (lambda m, x: (lambda y: y + F.relu(y))(F.relu(m.conv(x))), 0),
    "first is output": (lambda m, x: (lambda y: (y, F.relu(y)))(F.relu(m.conv(x))), 0),
    "between": (lambda m, x: F.relu(m.norm(F.relu(m.conv(x)))), 0),
    "other activations": (lambda m, x: F.relu(torch.sigmoid(F.elu(F.relu(m.conv(x))))), 0),
    "computed slope": (lambda m, x: F.prelu(F.relu(m.conv(x)), m.weight * 2), 0),
    "computed bound": (lambda m, x: torch.clamp(F.relu(m.conv(x)), max=m.weight.max()), 0),
    "integers": (lambda m, x: x.to(torch.int32).relu().clamp(0, 3).float(), 0),
    # An in-place activation changes what is read elsewhere.
    "in place, input read": (lambda m, x: (lambda y: F.leaky_relu(F.relu_(y), 0.5) * y)(m.conv(x)), 0),
    "in place, view read": (lambda m, x: (lambda y: F.leaky_relu(F.relu_(y.view(-1)), 0.5) * y.view(-1))(m.conv(x)), 0),
    "in place on input": (lambda m, x: F.leaky_relu(m.eager(x), 0.5), 0),
    "both in place, input read": (lambda m, x: (lambda y: F.leaky_relu_(F.relu_(y), 0.5) * y)(m.conv(x)), 1),
    "both in place, input read between": (
        lambda m, x: (lambda y: (lambda a, b: F.hardtanh_(a, 0.0, 0.5) + b)(F.relu_(y), y * 2))(m.conv(x)),
        0,
    ),
    "changed between": (lambda m, x: changed_between(m.conv(x)), 1),
    "identity of what others change": (
        lambda m, x: (lambda y: F.leaky_relu(F.leaky_relu(y, 0.5), 2.0).add_(1) * y)(m.conv(x)),
        0,
    ),
}


def changed_between(inputs: Tensor) -> Tensor:
    first = F.leaky_relu(inputs, 0.5)
    inputs.add_(3)
    return F.leaky_relu(first, 0.5) + inputs
