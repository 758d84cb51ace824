"""Digit networks in which activations follow each other, as modules and in code."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Blocks(nn.Module):
    """Three convolutions with two activations each, and with a third one, a function, where ``functional``."""

    def __init__(self, functional: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.PReLU(6))
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.PReLU(8))
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Hardtanh(-1, 4))
        self.classifier = nn.Linear(8, 10)
        self.functional = functional

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of shape ``(N, 10)``."""
        features = self.second(self.first(inputs))
        if self.functional:
            features = F.leaky_relu(features, 0.1)
        outputs: Tensor = self.classifier(self.third(features).mean((2, 3)))
        return outputs


def modules() -> nn.Module:
    """Return a network whose activations are all modules."""
    return Blocks()


def functions() -> nn.Module:
    """Return a network one of whose activations is a function."""
    return Blocks(functional=True)
