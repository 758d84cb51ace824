"""Solved layers of the candidates that a step of a search compares, with what they share kept in the process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from evaluators.task import Task
from search.study.trial import Step
from spaces.base import Solve
from spaces.channels.surgery import Cut
from spaces.execution.batch import to_device
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.kept import kept_outputs
from spaces.reconstruction.reconstruct import Reconstruction
from spaces.reconstruction.settings import ReconstructionSettings

FAST_IMAGES, FAST_POSITIONS = 192, 12_000
"""Samples, and positions of a layer, on which the candidates of a step are solved, unless the settings have fewer (ours)."""

_BATCH = 64


class StepSolving:
    """Reconstruction of the candidates of steps: in the fast form, or as the result is delivered in a final step.

    Args:
        settings: Settings of the reconstruction of what the search hands on.
    """

    def __init__(self, settings: ReconstructionSettings) -> None:
        self._settings = settings
        images, positions = min(settings.images, FAST_IMAGES), min(settings.positions, FAST_POSITIONS)
        self._fast = replace(settings, images=images, positions=positions)
        self._shared: tuple[nn.Module, bool, DenseOutputs] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings alone for another process, which reads the samples itself."""
        return {**self.__dict__, "_shared": None}

    def solve(self, dense: nn.Module, task: Task, seed: int, device: torch.device, step: Step) -> Solve:
        """Return what solves the layers of a smaller network against those of ``dense``.

        Args:
            dense: The network that channels are cut from.
            task: Gives the samples, from the beginning of its calibration split.
            seed: Seed of the positions.
            device: Where networks run.
            step: Says in which form.
        """
        outputs = self._outputs(dense, task, seed, device, step)

        def solved(small: nn.Module, cut: Cut) -> None:
            small.to(device).eval()
            for _ in Reconstruction(outputs, small, kept_outputs(dense, [cut])).solve():
                pass

        return solved

    def _outputs(self, dense: nn.Module, task: Task, seed: int, device: torch.device, step: Step) -> DenseOutputs:
        """Return the outputs of the dense network, drawn once for all candidates in one form."""
        if self._shared is not None and self._shared[0] is dense and self._shared[1] == step.final:
            return self._shared[2]
        settings = self._settings if step.final else self._fast
        found = task.batches(task.calibration_split, _BATCH, limit=settings.images)
        batches = [to_device(inputs, device) for inputs, _ in found]
        outputs = DenseOutputs(dense, batches, task.forward, settings, seed)
        self._shared = dense, step.final, outputs
        return outputs
