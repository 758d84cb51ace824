"""Small tasks and networks that the tests of this folder share."""

import torch
from torch import nn

from evaluators.tasks.classification import Classification
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings


class Dropped(nn.Module):
    """A convolution, BatchNorm, dropout and a classifier for the digits: every source of randomness and state."""

    def __init__(self, classes: int = 10, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(width * 16, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.dropout(self.bn(self.conv(inputs)).relu())
        return self.classifier(features.flatten(1))


def digits_task(
    factory: str = "tests.evaluators.small_task.Dropped", train_size: int | None = 256, **arguments: int
) -> Classification:
    return Classification(ModelSettings(factory, arguments), Digits(DigitsSettings(search_size=100, train_size=train_size)))
