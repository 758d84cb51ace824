"""Divergence from a checkpoint on images that no search has seen."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.pruning_bench import CPU, Bench, Sizes
from evaluators.reference_outputs import ReferenceOutputs

HELD_BACK = 2048
"""Images of the test split that networks are judged on."""


class HeldBack:
    """Kullback-Leibler divergence from the outputs of a checkpoint, over the first images of the test split.

    Args:
        bench: Model, seed, data and folder.
    """

    def __init__(self, bench: Bench[Sizes]) -> None:
        """Compute the checkpoint's outputs."""
        task = bench.task()
        self._outputs = ReferenceOutputs(bench.reference(task), task, "test", HELD_BACK, "kl", 256, CPU)

    def divergence(self, model: nn.Module) -> float:
        """Return the mean divergence of a network, in nats."""
        return float(self._outputs.distances(model.eval(), torch.arange(len(self._outputs))).mean())
