"""The task: a reference network, its data, loss and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.meters import Meter
from evaluators.metrics import METRICS, Metric
from spaces.errors import SecateursError
from spaces.execution.batch import Nested, at_length, count_samples, describe, first_tensor_of, select
from spaces.execution.forward import call, tensors_in
from spaces.execution.losses import Supervised

Split = Literal["train", "search", "test", "calibration"]
Batch = tuple[Nested, Nested]
"""Inputs and targets, each a tensor with a row per sample or any nesting of them (:mod:`spaces.execution.batch`)."""


@dataclass(frozen=True)
class PixelScale:
    """Normalization of images: of every channel, on a scale of 0 to 1, a mean that is subtracted and a deviation that divides.

    Attributes:
        mean: Means.
        std: Standard deviations.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, images: Tensor) -> Tensor:
        """Return normalized images of shape ``(N, C, H, W)`` as bytes."""
        mean, std = self._of(images)
        return images.mul(std).add_(mean).mul_(255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)

    def normalized(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Return bytes of shape ``(..., C, H, W)`` as normalized images of type ``dtype``."""
        images = pixels.to(dtype)
        mean, std = self._of(images)
        return images.div_(255.0).sub_(mean).div_(std)

    def _of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=images.dtype, device=images.device) for values in (self.mean, self.std))
        return mean[:, None, None], std[:, None, None]


class Task(ABC):
    """Interface of a task: the reference model, batches of the three splits, a loss and scores.

    Subclass it for a task of your own and name the class in the configuration (``task: {class: package.module.Class,
    arguments: {...}}``). Searches and early stopping read ``train`` and ``search`` only; ``test`` is read once, for the
    report.

    Attributes:
        cost_length: Tokens that costs are counted at, ``task.length`` of a configuration; None for those of the example.
        model_gives_losses: True for a network that is called with inputs and targets in training mode and gives its losses by
            name, such as torchvision's detectors. :meth:`loss` gets these, :meth:`score` and :meth:`meters` its answers.
        pixel_scale: Normalization of inputs that are images of shape ``(N, C, H, W)``; None where it is not known.
    """

    cost_length: int | None = None
    model_gives_losses: bool = False
    pixel_scale: PixelScale | None = None

    @property
    @abstractmethod
    def score_name(self) -> str:
        """Name of the primary entry of :meth:`score`, or of :meth:`meters`; :attr:`score_metrics` says which way is better."""

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of all entries of :meth:`score` and :meth:`meters`, the primary one first."""
        return (self.score_name,)

    @property
    def score_sign(self) -> float:
        """1.0 if a higher primary score is better, -1.0 if a lower one is, so that the better has the higher product."""
        described = self.score_metrics.get(self.score_name)
        return -1.0 if described is not None and described.direction == "minimize" else 1.0

    @property
    def score_metrics(self) -> Mapping[str, Metric]:
        """Unit, direction, label and format of every score; to be overridden for scores other than shares from 0 to 1."""
        return {name: METRICS.get(name, Metric("fraction", "maximize")) for name in self.score_names}

    @property
    def scores_by_sample(self) -> bool:
        """False where :meth:`score` gives the mean of a batch in place of its samples' values: no standard error is known."""
        return True

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a new network from its factory, without the checkpoint's weights; two calls give two separate networks."""

    @abstractmethod
    def reference_model(self) -> nn.Module:
        """Return a new network with the user's weights, the one that enters the first stage."""

    @property
    def calibration_split(self) -> Split:
        """The split that ranges of activations and Omega are found on: ``train``, unless samples were held out for it."""
        return "train"

    @abstractmethod
    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``, of ``calibration`` only where that is the :attr:`calibration_split`."""

    def check_data(self) -> Iterable[str]:
        """Look at the data before a run, and return a line on each thing that was found; by default nothing is looked at.

        Raises:
            SecateursError: The data can't be used.
        """
        return ()

    @abstractmethod
    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterable[Batch]:
        """Yield ``(inputs, targets)`` batches of ``split``: a tensor of shape ``(N, ...)``, or any nesting of them, each.

        With ``generator``, the split is shuffled and (for ``train``) augmented, all randomness drawn from it, and a
        last incomplete batch is dropped. Without, order and samples are fixed and nothing is augmented or dropped.
        ``limit`` yields only the first so many samples of the fixed order.
        """

    def batch_rows(self, split: Split, batch_size: int, generator: torch.Generator, start: int, stop: int) -> Iterable[Batch]:
        """Yield the samples from ``start`` up to ``stop`` of every batch that :meth:`batches` yields with a generator.

        By default whole batches are read; to be overridden where others need not be read. Several training workers share the
        reading so.
        """
        for inputs, targets in self.batches(split, batch_size, generator):
            yield select(inputs, start, stop), select(targets, start, stop)

    @abstractmethod
    def loss(self, outputs: Any, targets: Nested, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean loss of a batch, a scalar, from what :meth:`forward` returned."""

    @abstractmethod
    def score(self, outputs: Any, targets: Nested) -> dict[str, Tensor]:
        """Return the scores of a batch: tensors of shape ``(N,)``, one value per sample, averaged over a split."""

    def meters(self) -> Mapping[str, Meter]:
        """Return new metrics that accumulate over a split, by name; by default none."""
        return {}

    def forward(self, model: nn.Module, inputs: Nested) -> Any:
        """Return the outputs of ``model`` on a batch, of any structure, as :func:`spaces.execution.forward.call` does."""
        return call(model, inputs)

    def loss_inputs(self, inputs: Nested, targets: Nested) -> Nested:
        """Return the inputs of the :meth:`forward` whose outputs :meth:`loss` takes: ``inputs``, or these with the targets."""
        return Supervised(inputs, targets) if self.model_gives_losses else inputs

    def exported(self, model: nn.Module, inputs: Nested) -> Any:
        """Return the outputs that exported files have, by default those of :meth:`forward`.

        To be overridden for a network whose last step can't be exported, such as the suppression of overlapping boxes.
        """
        return self.forward(model, inputs)

    def distillation_loss(self, outputs: Any, teacher: Any, temperature: float) -> Tensor:
        """Return the mean distance of ``outputs`` from the reference network's, a scalar.

        By default the KL divergence of logits of shape ``(N, classes)``, times ``temperature ** 2`` (Hinton, Vinyals, Dean
        2015, arXiv 1503.02531), of ``(N, classes, ...)`` its mean over samples and places; of one number a sample or place, of
        which no logits are made, and of outputs that are no single tensor, the mean squared difference (ours).
        """
        if not isinstance(outputs, Tensor):
            pairs = zip(tensors_in(outputs), tensors_in(teacher), strict=True)
            return torch.stack([F.mse_loss(one, other) for one, other in pairs if one.is_floating_point()]).mean()
        if outputs.dim() < 2 or outputs.shape[1] == 1:
            return F.mse_loss(outputs, teacher)
        return F.kl_div(
            F.log_softmax(_by_place(outputs) / temperature, dim=1),
            F.log_softmax(_by_place(teacher) / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        ) * (temperature * temperature)

    def count(self, inputs: Nested, targets: Nested) -> int:
        """Return the number of samples of a batch, by default as :func:`spaces.execution.batch.count_samples` does."""
        return count_samples(inputs)

    def labels(self, targets: Nested) -> Tensor | None:
        """Return class labels of shape ``(N,)``, or None for a task without them."""
        return None

    @abstractmethod
    def example_inputs(self) -> Nested:
        """Return a batch of one sample, used to trace networks and count costs; a network is judged at its sizes."""

    def traced_inputs(self) -> Nested:
        """Return the batch of one sample on which networks are traced and costed: the example, of :attr:`cost_length` tokens.

        Raises:
            LengthError: A length is stated that is none, or the example's first tensor has no dimension of tokens.
        """
        inputs = self.example_inputs()
        if self.cost_length is None:
            return inputs
        if self.cost_length < 1:
            raise LengthError(f"length: expected a number of tokens, at least 1, got {self.cost_length}")
        first = first_tensor_of(inputs)
        if first is None or first.dim() not in (2, 3) or (first.dim() == 2 and first.is_floating_point()):
            raise LengthError(
                f"length {self.cost_length}: expected inputs of tokens, of shape (N, tokens) or (N, tokens, features), "
                f"got an example of {describe(inputs)}; leave length out"
            )
        return at_length(inputs, self.cost_length)

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes by their number, for the report; None where they are not known."""
        return None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of data and model; a run goes on only with an equal one."""


def _by_place(logits: Tensor) -> Tensor:
    """Return logits of shape ``(N, classes, ...)`` with a row for every place of every sample."""
    return logits if logits.dim() == 2 else logits.movedim(1, -1).flatten(0, -2)


class LengthError(SecateursError):
    """A length that costs can't be counted at."""


class MeasurementError(SecateursError):
    """A measurement that is not what its evaluator, or the task's score, promises."""


class MissingDataError(SecateursError):
    """A data set's files are not in its folder."""


def summed_losses(outputs: Any) -> Tensor:
    """Return the sum of the losses that a network gave by name, a scalar.

    Raises:
        MeasurementError: It gave no mapping of tensors.
    """
    if not isinstance(outputs, Mapping) or not outputs or not all(isinstance(part, Tensor) for part in outputs.values()):
        raise MeasurementError(
            f"loss: expected a network that is called with inputs and targets in training mode and gives a mapping of losses; "
            f"got {describe(outputs)}"
        )
    return torch.stack([part.mean() for part in outputs.values()]).sum()


def is_task_class(found: object) -> TypeGuard[type[Task]]:
    """Return True if ``found``, the object at an import path that a person gave, is a subclass of :class:`Task`."""
    return isinstance(found, type) and issubclass(found, Task)
