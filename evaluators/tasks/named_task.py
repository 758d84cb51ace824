"""Tasks of a configuration: a network from a factory, on a registered data set."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from evaluators.meters import ImportedMeter, Meter, MeterSettings
from evaluators.metrics import METRICS, Metric
from evaluators.task import Batch, Split, Task
from evaluators.tasks.data import DataSet
from evaluators.tasks.model_factory import ModelSettings, build_model, load_weights, model_fingerprint
from spaces.errors import UnsupportedModelError, error_line
from spaces.execution.batch import Nested, describe
from spaces.execution.evaluation_mode import evaluation_mode


class NamedTask(Task):
    """A network from a factory on a registered data set: ``task.model``, ``task.data`` and perhaps ``task.score``.

    Args:
        model: Factory, arguments and checkpoint of the network.
        data: The data set, made from its own settings.
        score: A metric that accumulates, the primary score; None for the task's own.

    Class attributes:
        output_words: Outputs of the network, for messages.
        class_words: The data's ``classes``, for messages.
    """

    output_words: ClassVar[str] = "logits"
    class_words: ClassVar[str] = "classes"

    def __init__(self, model: ModelSettings, data: DataSet, score: MeterSettings | None = None) -> None:
        """Keep the settings; no weights and no data are read yet."""
        self.model = model
        self.data = data
        self.pixel_scale = data.pixel_scale
        self._imported = score

    @property
    @abstractmethod
    def own_scores(self) -> Mapping[str, Metric]:
        """Scores of the task itself, the primary one first."""

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the outputs for one sample."""

    @property
    def one_target(self) -> Nested:
        """The targets of one sample, as a batch."""
        _, targets = next(iter(self.data.batches("train", 1, None, 1)))
        return targets

    @abstractmethod
    def own_meters(self) -> Mapping[str, Meter]:
        """Return the task's own metrics that accumulate, new ones."""

    @property
    def score_name(self) -> str:
        """Name of the primary score."""
        return self.score_names[0]

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores, the primary one first."""
        return tuple(self.score_metrics)

    @property
    def score_metrics(self) -> Mapping[str, Metric]:
        """Description of every score, the primary one first."""
        imported = {} if self._imported is None else {self._imported.label: self._imported.metric()}
        return {**imported, **self.own_scores}

    def meters(self) -> Mapping[str, Meter]:
        """Return new metrics that accumulate: the task's own, and the one of ``task.score``."""
        imported = {} if self._imported is None else {self._imported.label: ImportedMeter(self._imported)}
        return {**imported, **self.own_meters()}

    def build(self) -> nn.Module:
        """Return a new network from the factory."""
        return build_model(self.model)

    def reference_model(self) -> nn.Module:
        """Return a new network with the weights of the configured checkpoint, if any.

        Raises:
            UnsupportedModelError: The network's forward pass fails, or does not give what the data asks for.
        """
        model = self.build()
        if self.model.checkpoint is not None:
            load_weights(model, self.model.checkpoint)
        self.check(model)
        return model

    def check(self, model: nn.Module) -> None:
        """Check the outputs of ``model`` on one sample.

        Raises:
            UnsupportedModelError: The forward pass fails, or does not give a tensor of :attr:`output_shape`.
        """
        inputs, expected = self.example_inputs(), self.output_shape
        try:
            with evaluation_mode(model), torch.no_grad():
                outputs: object = self.forward(model, inputs)
        except Exception as error:
            raise UnsupportedModelError(
                f"the forward pass of {self.model.factory} on a batch of {describe(inputs)} failed: {error_line(error)}; check "
                "model.arguments against the data"
            ) from error
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != expected:
            came = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise UnsupportedModelError(
                f"{self.model.factory} on a batch of {describe(inputs)}: expected {self.output_words} of shape {expected} "
                f"for the {self.data.classes} {self.class_words} of the data, got {came}; "
                f"set its number of {self.class_words} in model.arguments"
            )

    @property
    def calibration_split(self) -> Split:
        """``calibration`` where ``data.calibration_size`` holds samples out of training, else ``train``."""
        return self.data.calibration_split

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the data set's classes, where it has some."""
        return self.data.class_names

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        return self.data.size(split)

    def check_data(self) -> Iterable[str]:
        """Return a line on each thing that the data set found in its files."""
        return self.data.check_data()

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterable[Batch]:
        """Yield ``(inputs, targets)`` of the data set."""
        return self.data.batches(split, batch_size, generator, limit)

    def batch_rows(self, split: Split, batch_size: int, generator: torch.Generator, start: int, stop: int) -> Iterable[Batch]:
        """Yield the samples from ``start`` up to ``stop`` of every batch; of a task with batches of its own, of these."""
        if type(self).batches is not NamedTask.batches:
            return super().batch_rows(split, batch_size, generator, start, stop)
        return self.data.batch_rows(split, batch_size, generator, start, stop)

    def example_inputs(self) -> Nested:
        """Return one sample as a batch."""
        return self.data.example()

    @cached_property
    def _fingerprint(self) -> str:
        content = f"{self.data.fingerprint} {model_fingerprint(self.model)}"
        if self._imported is not None:
            content += f" {self._imported}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content and splits, the factory and its arguments, the checkpoint and the metric of one's own."""
        return self._fingerprint


def shipped(*names: str) -> Mapping[str, Metric]:
    """Return the descriptions of shipped scores."""
    return {name: METRICS[name] for name in names}
