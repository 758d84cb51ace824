"""Image classification: the task of a configuration with ``task.model`` and ``task.data``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.task import Batch, Split, Task
from evaluators.tasks.data import DataSet
from evaluators.tasks.model_factory import ModelSettings, build_model, load_weights, model_fingerprint
from spaces.errors import UnsupportedModelError
from spaces.execution.evaluation_mode import evaluation_mode

TOP5_ABOVE = 10


class Classification(Task):
    """Classification of images: cross-entropy, top-1 accuracy and, with more than ten classes, top-5.

    Args:
        model: Factory, arguments and checkpoint of the network.
        data: The data set, made from its own settings.
    """

    def __init__(self, model: ModelSettings, data: DataSet) -> None:
        """Keep the settings; no weights and no data are read yet."""
        self.model = model
        self.data = data

    @property
    def score_name(self) -> str:
        """Name of the primary score: ``top1``."""
        return "top1"

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores: ``top1`` and, with more than ten classes, ``top5``."""
        return ("top1", "top5") if self.data.classes > TOP5_ABOVE else ("top1",)

    def build(self) -> nn.Module:
        """Return a new network from the factory."""
        return build_model(self.model)

    def reference_model(self) -> nn.Module:
        """Return a new network with the weights of the configured checkpoint, if any.

        Raises:
            UnsupportedModelError: The network's forward pass fails, or does not give one logit per class.
        """
        model = self.build()
        if self.model.checkpoint is not None:
            load_weights(model, self.model.checkpoint)
        self.check(model)
        return model

    def check(self, model: nn.Module) -> None:
        """Check the outputs of ``model`` on one sample.

        Raises:
            UnsupportedModelError: The forward pass fails, or does not give one logit per class.
        """
        inputs, expected = self.example_inputs(), (1, self.data.classes)
        try:
            with evaluation_mode(model), torch.no_grad():
                outputs: object = self.forward(model, inputs)
        except Exception as error:
            raise UnsupportedModelError(
                f"the forward pass of {self.model.factory} on a batch of shape {tuple(inputs.shape)} failed: "
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}; check "
                "model.arguments against the data"
            ) from error
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != expected:
            came = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise UnsupportedModelError(
                f"{self.model.factory} on a batch of shape {tuple(inputs.shape)}: expected logits of "
                f"shape {expected} for the {self.data.classes} classes of the data, got {came}; "
                "set its number of classes in model.arguments"
            )

    @property
    def calibration_split(self) -> Split:
        """``calibration`` where ``data.calibration_size`` holds samples out of training, else ``train``."""
        return self.data.calibration_split

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        return self.data.size(split)

    def check_data(self) -> Iterable[str]:
        """Return a line on each thing that the data set found in its files."""
        return self.data.check_data()

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterable[Batch]:
        """Yield ``(images, labels)``: shape ``(N, C, H, W)`` in float32 and ``(N,)`` in int64."""
        return self.data.batches(split, batch_size, generator, limit)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of logits of shape ``(N, classes)``, in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return per sample 1.0 where the label is the highest logit's (``top1``) or among five (``top5``), or 0.0."""
        scores = {"top1": (outputs.argmax(dim=1) == targets).float()}
        if outputs.shape[1] > TOP5_ABOVE:
            scores["top5"] = (outputs.topk(5, dim=1).indices == targets[:, None]).any(dim=1).float()
        return scores

    def labels(self, targets: Tensor) -> Tensor | None:
        """Return ``targets``, class labels of shape ``(N,)`` in int64."""
        return targets

    def example_inputs(self) -> Tensor:
        """Return one image as a batch, shape ``(1, C, H, W)``."""
        return self.data.example()

    @cached_property
    def _fingerprint(self) -> str:
        content = f"{self.data.fingerprint} {model_fingerprint(self.model)}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content and splits, the factory and its arguments, and the checkpoint."""
        return self._fingerprint
