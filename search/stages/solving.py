"""Reconstruction of a network in a stage: its layers solved against those of the network that channels were cut from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

from torch import nn

from search.run.stage_run import DryRun, StageRun
from search.run.steps import RECONSTRUCTION
from spaces.base import Solve
from spaces.channels.surgery import Cut
from spaces.execution.batch import to_device
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.estimate import estimate
from spaces.reconstruction.kept import kept_outputs
from spaces.reconstruction.reconstruct import Reconstruction
from spaces.reconstruction.settings import ReconstructionSettings

BATCH = 64
"""Samples of a forward pass."""

EVERY = 10.0
"""Seconds between two writings of what is solved so far."""


def tell_costs(dense: nn.Module, small: nn.Module, run: DryRun, settings: ReconstructionSettings) -> None:
    """Tell, in a check, about how long a reconstruction takes and how much memory it needs at most.

    Args:
        dense: The network that channels are cut from.
        small: A network with as many channels as those that will be solved.
        run: What a check may use.
        settings: Options.
    """
    task = run.task
    samples = task.size(task.calibration_split)
    found = estimate(
        dense.to(run.device).eval(),
        small.to(run.device).eval(),
        to_device(task.traced_inputs(), run.device),
        task.forward,
        settings,
        samples,
    )
    run.tell(f"reconstruction: about {found.seconds:.0f} s and {found.bytes / 2**20:.0f} MB for every network")
    if 2 <= found.fitting < min(samples, settings.images):
        run.tell(
            f"reconstruction: every layer takes a pass over its {min(samples, settings.images)} samples; "
            f"with images: {found.fitting} or fewer, a pass solves many layers"
        )


def solver(dense: nn.Module, run: StageRun, settings: ReconstructionSettings, name: str) -> Solve:
    """Return what solves the layers of a smaller network against those of ``dense``, in place.

    A reconstruction that was cut off goes on behind the last pass that it has written.

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
    outputs = DenseOutputs(dense.to(run.device).eval(), batches, run.task.forward, settings, run.seed)
    solving = Reconstruction(outputs, small.to(run.device).eval(), kept_outputs(dense, cuts))
    checkpoint = run.training(RECONSTRUCTION, f"{name}.safetensors")
    passes: list[list[Mapping[str, Any]]] = []
    known = checkpoint.load()
    if known is not None:
        small.load_state_dict(known[0])
        passes = list(known[1]["passes"])
    saved = time.monotonic()
    solved = sum(map(len, passes))
    with run.log.bar(f"{run.label}: reconstruction", len(solving)) as bar:
        bar.update(solved)
        numbers = count(solved + 1)
        for fits in solving.solve(len(passes), lambda fit: bar.update(next(numbers), fit.layer)):
            passes.append([asdict(fit) for fit in fits])
            solved += len(fits)
            if solved == len(solving) or time.monotonic() - saved >= EVERY:
                checkpoint.save(small.state_dict(), {"passes": passes})
                saved = time.monotonic()
            run.stopwatch.save()
    run.notes["reconstruction"] = [fit for fits in passes for fit in fits]
