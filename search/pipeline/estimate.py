"""Time, memory and disk of a run, estimated in a check: steps and evaluations timed on this machine, counts from the plan."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from evaluators.task import Task
from evaluators.tasks.measure import measure
from evaluators.training.loop import train
from evaluators.training.settings import TrainingSettings
from search.output.numbers import format_bytes
from search.output.progress import duration
from search.run.network import Network
from search.run.stage_run import DENSE, device_of
from search.stages.base import PlacedStage, placed_stages
from spaces.quantization.cost import stored_bytes

if TYPE_CHECKING:
    from search.config.loading import Config
    from search.pipeline.start import Start

STEPS = 12
"""Optimizer steps that are timed; the first two are left out, since they set things up."""
LONGEST = 10.0
"""Seconds after which no further step is timed."""
SAMPLES = 512
"""Samples of the search split that a pass is timed on."""
BESIDE_NETWORKS = 600_000
"""Bytes of a report, its figures and the record of a search."""
OF_TRAINING = 3
"""Copies of the weights in the file of a training under way: the network, its moments, and the best so far."""


@dataclass(frozen=True)
class Passage:
    """A stage, and the network on which it was checked.

    Attributes:
        placed: The stage.
        network: The network that enters it, or one of about its structure.
        seconds: Time of the search in it, by what is done; empty for another stage.
    """

    placed: PlacedStage
    network: Network
    seconds: Sequence[tuple[str, float]] = ()


class _EnoughError(Exception):
    """Signal that enough steps were timed."""


def estimate(config: Config, start: Start, passages: Sequence[Passage]) -> Iterator[str]:
    """Yield lines on the time of every stage, and on time, memory and disk of the whole run.

    Tables of sensitivity, levels and latency, and the writing of exported files, are not counted.

    Args:
        config: The configuration.
        start: Task and network.
        passages: The stages that were checked, in order.
    """
    task, device = start.task, device_of(config.execution.device)
    by_step = {passage.placed.step: passage for passage in passages}
    network, flows, bytes_on_disk, whole = start.network, 1, 0.0, 0.0
    for placed in placed_stages(config):
        passage = by_step.get(placed.step)
        network = network if passage is None else passage.network
        size = stored_bytes(network.model)
        parts = list(passage.seconds) if passage is not None else []
        if placed.stage.trains:
            parts += [
                (
                    f"training, {flows} network{'s' if flows > 1 else ''}",
                    flows * training_seconds(network, task, training, start),
                )
                for training in placed.stage.trainings.values()
            ]
        flows += sum(name != DENSE for name in placed.stage.baselines) + (DENSE in placed.stage.baselines)
        bytes_on_disk += size * (flows if placed.stage.searches or placed.stage.trains else 1)
        seconds = sum(amount for _, amount in parts)
        whole += seconds
        if parts:
            yield f"{placed.step}: about {duration(seconds)} ({', '.join(f'{what} {duration(one)}' for what, one in parts)})"
    passes = (flows + 1) * pass_seconds(network.model.to(device), task) * task.size("test")
    whole += passes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    disk = bytes_on_disk + (OF_TRAINING + 2) * stored_bytes(start.network.model) + BESIDE_NETWORKS
    yield (
        f"estimate for this machine as busy as now: {duration(whole)}, {format_bytes(memory)} of memory a process, "
        f"{format_bytes(disk)} on disk; tables of sensitivity, levels and latency, and exported files, come on top"
    )


def training_seconds(network: Network, task: Task, settings: TrainingSettings, start: Start) -> float:
    """Return the seconds of a training of a network, from a few timed steps and a timed pass over the search split.

    Args:
        network: The network; left unchanged.
        task: Data, loss and score.
        settings: The training.
        start: The network that is learned from, where the training distils.
    """
    device = device_of(start.config.execution.device)
    model = network.copy().model
    teacher = start.network.copy().model if settings.distillation is not None else None
    ticks: list[float] = []

    def tick(step: int, total: int) -> None:
        ticks.append(time.perf_counter())
        if len(ticks) > 2 and ticks[-1] - ticks[0] > LONGEST:
            raise _EnoughError

    try:
        train(model, task, settings, seed=0, device=device, teacher=teacher, until_step=STEPS, on_step=tick)
    except _EnoughError:
        model.eval()
    gaps = [after - before for before, after in pairwise(ticks[1:])]
    step = statistics.fmean(gaps) if gaps else 0.0
    steps = settings.epochs * (task.size("train") // settings.batch_size)
    return steps * step + settings.epochs * task.size("search") * pass_seconds(model, task)


def pass_seconds(model: nn.Module, task: Task) -> float:
    """Return the seconds of a sample in a pass over the search split."""
    samples = min(SAMPLES, task.size("search"))
    measure(model, task, "search", limit=min(samples, 64))
    began = time.perf_counter()
    measure(model, task, "search", limit=samples)
    return (time.perf_counter() - began) / samples
