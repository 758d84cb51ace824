"""Networks whose answer is an image, and one for two images: U-Nets, with and without a time step, and twin towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions that keep the size, each with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for entering in (inputs, outputs):
        layers += [nn.Conv2d(entering, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder and decoder with connections across (Ronneberger, Fischer, Brox, MICCAI 2015, arXiv 1505.04597), two levels deep.

    ``width`` channels in the first level, twice as many in the second, four times as many at the bottom.

    Shapes: ``(N, in_channels, H, W)`` to ``(N, outputs, H, W)``, height and width multiples of 4.
    """

    def __init__(self, in_channels: int, outputs: int, width: int) -> None:
        """Make the layers."""
        super().__init__()
        self.first = double_convolution(in_channels, width)
        self.second = double_convolution(width, 2 * width)
        self.bottom = double_convolution(2 * width, 4 * width)
        self.up_second = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.decode_second = double_convolution(4 * width, 2 * width)
        self.up_first = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.decode_first = double_convolution(2 * width, width)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return an answer for every pixel."""
        first = self.first(image)
        second = self.second(F.max_pool2d(first, 2))
        return self.decode(first, second, self.bottom(F.max_pool2d(second, 2)))

    def decode(self, first: Tensor, second: Tensor, bottom: Tensor) -> Tensor:
        """Return the answer from the features of the three levels."""
        second = self.decode_second(torch.cat([second, self.up_second(bottom)], dim=1))
        first = self.decode_first(torch.cat([first, self.up_first(second)], dim=1))
        answer: Tensor = self.head(first)
        return answer


class DiffusionUNet(UNet):
    """A U-Net that predicts the noise in an image at a time step (Ho, Jain, Abbeel 2020, arXiv 2006.11239).

    An embedding of the step goes through a linear layer for each level of the encoder, and is added as a value per channel.

    Shapes: ``image`` ``(N, in_channels, H, W)`` and ``time``, int64 of shape ``(N,)`` from 0 below ``steps``, to the noise,
    shaped like the image.
    """

    def __init__(self, in_channels: int, width: int, steps: int) -> None:
        """Make the layers."""
        super().__init__(in_channels, in_channels, width)
        self.times = nn.Sequential(nn.Embedding(steps, 4 * width), nn.Linear(4 * width, 4 * width), nn.SiLU())
        self.time_second = nn.Linear(4 * width, 2 * width)
        self.time_bottom = nn.Linear(4 * width, 4 * width)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:  # type: ignore[override]
        """Return the noise."""
        hidden = self.times(time)
        first = self.first(image)
        second = self.second(F.max_pool2d(first, 2)) + self.time_second(hidden)[:, :, None, None]
        bottom = self.bottom(F.max_pool2d(second, 2)) + self.time_bottom(hidden)[:, :, None, None]
        return self.decode(first, second, bottom)


class TwinNetwork(nn.Module):
    """One tower for two images, and a classifier of the difference of their features (Bromley et al., NIPS 1993).

    Shapes: two images ``(N, in_channels, H, W)`` to logits ``(N, classes)``.
    """

    def __init__(self, in_channels: int, classes: int, width: int) -> None:
        """Make the layers."""
        super().__init__()
        self.tower = nn.Sequential(
            double_convolution(in_channels, width),
            nn.MaxPool2d(2),
            double_convolution(width, 2 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 4 * width),
        )
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return logits from the absolute differences of the features."""
        logits: Tensor = self.classifier((self.tower(first) - self.tower(second)).abs())
        return logits
