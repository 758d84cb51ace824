"""Define the options of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.schedules import Schedule

Autocast = Literal["auto", "off", "bf16"]


@dataclass(frozen=True)
class DistillationSettings:
    """Options of learning from the reference network (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

    Attributes:
        weight: Share of the distillation loss, from 0 to 1; the task's loss has the rest.
        temperature: Divisor of both networks' logits, above 0; higher is softer.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    weight: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight: expected a number from 0 to 1, got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")


@dataclass(frozen=True)
class EarlyStopSettings:
    """Options of stopping when the score on the search split stops rising.

    Attributes:
        patience: Epochs without a new best score after which training ends; the best epoch's weights are kept.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    patience: int = 5

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.patience < 1:
            raise ValueError(f"patience: expected at least 1 epoch, got {self.patience}")


@dataclass(frozen=True)
class TrainingSettings:
    """Options of :func:`evaluators.training.loop.train`.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples per step; a last incomplete batch is dropped.
        optimizer: The optimizer and its highest learning rate.
        schedule: ``one_cycle``, ``cosine`` or ``constant``; see :mod:`evaluators.training.schedules`.
        warmup: Share of the steps in which the learning rate rises.
        label_smoothing: Share of the target spread over all classes, from 0 to below 1.
        distillation: Options of learning from the reference network as well, or None for the task's loss alone.
        autocast: Use of bfloat16: ``auto`` if the hardware computes in it natively, ``bf16`` always, ``off`` never.
        channels_last: Whether networks on images run in channels-last layout while they train.
        early_stop: Condition for ending before ``epochs``, or None for never.
        clip_norm: Largest norm of the gradient, or None for no limit.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: int
    batch_size: int = 128
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: Schedule = "one_cycle"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    distillation: DistillationSettings | None = None
    autocast: Autocast = "auto"
    channels_last: bool = True
    early_stop: EarlyStopSettings | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {self.epochs}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: expected at least 2, got {self.batch_size}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: expected a share from 0 to below 1, got {self.warmup}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share from 0 to below 1, got {self.label_smoothing}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm: expected a number above 0, got {self.clip_norm}")
