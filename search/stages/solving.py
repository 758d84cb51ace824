"""Reconstruction of a network in a stage: its layers solved against those of the network that channels were cut from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from evaluators.training.checkpoint import FileCheckpoint
from search.run.stage_run import StageRun
from search.run.steps import RECONSTRUCTION
from spaces.base import Solve
from spaces.channels.surgery import Cut
from spaces.execution.batch import to_device
from spaces.reconstruction.kept import kept_outputs
from spaces.reconstruction.reconstruct import LayerFit, Reconstruction
from spaces.reconstruction.settings import ReconstructionSettings

BATCH = 64
"""Samples of a forward pass."""

EVERY = 10.0
"""Seconds between two writings of what is solved so far."""


def solver(dense: nn.Module, run: StageRun, settings: ReconstructionSettings, name: str) -> Solve:
    """Return what solves the layers of a smaller network against those of ``dense``, in place.

    A reconstruction that was cut off goes on behind the last layers that it has written.

    Args:
        dense: The network that channels are cut from.
        run: What the stage may use; its notes get ``reconstruction``, what the solution of every layer has left.
        settings: Options.
        name: Name of the checkpoint.
    """

    def solve(small: nn.Module, cut: Cut) -> None:
        solve_layers(dense, small, [cut], run, settings, name)

    return solve


def solve_layers(
    dense: nn.Module, small: nn.Module, cuts: Sequence[Cut], run: StageRun, settings: ReconstructionSettings, name: str
) -> None:
    """Solve the layers of ``small``, which ``cuts`` have left of ``dense``, in place; other arguments of :func:`solver`."""
    found = run.task.batches(run.task.calibration_split, BATCH, limit=settings.images)
    batches = [to_device(inputs, run.device) for inputs, _ in found]
    dense, small = dense.to(run.device).eval(), small.to(run.device).eval()
    checkpoint = run.training(RECONSTRUCTION, f"{name}.safetensors")
    solving = Reconstruction(dense, small, kept_outputs(dense, cuts), batches, run.task.forward, settings, run.seed)
    fits: list[Mapping[str, Any]] = []
    known = checkpoint.load()
    if known is not None:
        small.load_state_dict(known[0])
        fits = list(known[1]["fits"])
    with run.log.bar(f"{run.label}: reconstruction", len(solving)) as bar:
        bar.update(len(fits))
        for fit in _written(solving.solve(len(fits)), fits, small, checkpoint, len(solving)):
            bar.update(len(fits), fit.layer)
            run.stopwatch.save()
    run.notes["reconstruction"] = fits


def _written(
    steps: Iterator[LayerFit], fits: list[Mapping[str, Any]], small: nn.Module, checkpoint: FileCheckpoint, last: int
) -> Iterator[LayerFit]:
    """Pass on the solutions of layers, add them to ``fits``, and write the network now and then and at the end."""
    saved = time.monotonic()
    for fit in steps:
        fits.append(asdict(fit))
        if len(fits) == last or time.monotonic() - saved >= EVERY:
            checkpoint.save(small.state_dict(), {"fits": fits})
            saved = time.monotonic()
        yield fit
