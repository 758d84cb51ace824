"""Measure how far a network's outputs are from the dense network's, without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from evaluators.base import Draw, EvaluationContext, Evaluator
from evaluators.batch_norm import recalibrate_for
from evaluators.metrics import METRICS, Metric
from evaluators.output_distance import Measure
from evaluators.reference_outputs import ReferenceOutputs

_HELD_OUT = 4
"""A quarter of the pool is drawn from by the last comparison of a search alone."""


@dataclass(frozen=True)
class DivergenceSettings:
    """Options of :class:`Divergence`.

    Attributes:
        measure: ``kl``, the Kullback-Leibler divergence of softmax outputs, per sample and position, in nats;
            ``relative_error``, the squared difference of outputs by their squared deviation from their mean; ``auto`` takes
            ``kl`` where outputs are logits.
        split: Split to measure on: ``train`` or ``search``; ``test`` is read for the report only.
        samples: Samples of a measurement, from the beginning of the split (ours).
        pool: Samples from the beginning of the split that the steps of a search draw from; the last quarter is kept for its
            last comparison (ours). Fewer where their inputs or outputs take more than 1 GiB.
        batch_norm_batches: Training batches for measuring BatchNorm statistics again before; 0 to keep the statistics. Those of
            a reconstructed network are always kept.
        batch_size: Samples per forward pass.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    measure: Measure = "auto"
    split: Literal["train", "search"] = "train"
    samples: int = 1024
    pool: int = 8192
    batch_norm_batches: int = 8
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.measure not in ("auto", "kl", "relative_error"):
            raise ValueError(f"measure: expected auto, kl or relative_error, got {self.measure!r}")
        if self.split not in ("train", "search"):
            raise ValueError(f"split: expected train or search, got {self.split!r}; test is read for the report only")
        for name, value, least in (("samples", self.samples, 1), ("pool", self.pool, 4), ("batch_size", self.batch_size, 2)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if self.batch_norm_batches < 0:
            raise ValueError(f"batch_norm_batches: expected at least 0, got {self.batch_norm_batches}")


class Divergence(Evaluator):
    """Mean divergence of a network's outputs from those of the network that the search started from, with its standard error.

    Outputs of the dense network, in evaluation mode, are computed once in a process and held in memory. The fidelity is the
    share of ``samples``, from the beginning, and the share of the training samples that measure statistics again. In a rough
    comparison BatchNorm takes the statistics of the batch instead, which ranks candidates alike for a third of the effort.
    """

    Settings = DivergenceSettings
    rank = 10

    def __init__(self, settings: DivergenceSettings) -> None:
        """Keep ``settings``."""
        self.settings = settings
        self._dense: tuple[nn.Module, object, ReferenceOutputs] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings alone for another process, which computes the dense outputs itself."""
        return {"settings": self.settings, "_dense": None}

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``divergence`` and ``divergence_error``, its standard error."""
        return {name: METRICS[name] for name in ("divergence", "divergence_error")}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Measure the statistics of ``model`` again, in place, and return its divergence.

        Raises:
            MeasurementError: Outputs of ``model`` and of the dense network can't be compared.
        """
        settings, draw = self.settings, context.draw
        wanted = settings.samples if draw is None else settings.pool
        dense = self._outputs(wanted, context)
        places = self._places(len(dense), draw, context.fidelity)
        batches, own = settings.batch_norm_batches, False
        if draw is not None and draw.rough and len(places) > 1:
            batches, own = 0, batches > 0
        recalibrate_for(context.task, model, batches, settings.batch_size, context.fidelity, context.device)
        model.to(context.device)
        values = dense.distances(model, places, own)
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return {"divergence": float(values.mean()), "divergence_error": error}

    def _outputs(self, wanted: int, context: EvaluationContext) -> ReferenceOutputs:
        """Return the outputs of the dense network on at least ``wanted`` samples, or as many as there are and fit."""
        if self._dense is not None:
            reference, task, found = self._dense
            if reference is context.reference and task is context.task and found.samples >= wanted:
                return found
        settings = self.settings
        found = ReferenceOutputs(
            context.reference, context.task, settings.split, wanted, settings.measure, settings.batch_size, context.device
        )
        self._dense = context.reference, context.task, found
        return found

    def _places(self, held: int, draw: Draw | None, fidelity: float) -> Tensor:
        """Return the places of the samples of a measurement, int64, ascending."""
        if draw is None:
            return torch.arange(max(1, math.ceil(fidelity * min(held, self.settings.samples))))
        first = held - held // _HELD_OUT
        begin, end = (first, held) if draw.held_out and first < held else (0, first)
        generator = torch.Generator().manual_seed(draw.seed)
        return (begin + torch.randperm(end - begin, generator=generator)[: draw.samples]).sort().values
