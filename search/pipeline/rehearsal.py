"""The rehearsal: checks of every stage before the run, each on a network of about the structure that it will get."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.tasks.settings import build_task
from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.config.registries import SPARSIFIER, STAGE
from search.output.progress import Log
from search.pipeline.preflight import placed, preflight
from search.run.best import Best
from search.run.network import Network
from search.run.stage_run import RESULT, StageRun, Stopwatch, device_of

if TYPE_CHECKING:
    from evaluators.task import Task
    from search.config.loading import Config
    from search.stages.base import Stage


def rehearse(config: Config) -> Iterator[str]:
    """Check a whole run before anything is written, and yield a line per check that passed.

    Behind a search, stages are checked on the network of one of its candidates, whose structure is about the one they will get.
    Channels that a sparse training removes are not known beforehand: behind one, a target out of reach is left to the search.

    Raises:
        SecateursError: The run can't work as configured.
    """
    yield from preflight(config)
    task = config.build_task()
    network = reference = Network(task.reference_model().eval())
    unknown = False
    for number, block in enumerate(config.stages):
        stage: Stage[Any] = STAGE.build(block)
        if not stage.compresses:
            continue
        step = f"{number}-{block.name}"
        try:
            with placed(step):
                network = stage.check(network, _stage_run(config, task, step, reference))
        except UnreachableTargetError:
            if not unknown:
                raise
            # Nothing more can be said of what comes behind.
            return
        unknown = unknown or (hasattr(block.settings, "sparsifier") and SPARSIFIER.find(block.settings.sparsifier.name).removes)


def _stage_run(config: Config, task: Task, step: str, reference: Network) -> StageRun:
    nowhere = Path()
    return StageRun(
        name=config.name,
        step=step,
        variant=RESULT,
        folder=nowhere,
        seed=config.seed,
        task=task,
        build_task=partial(build_task, config.task),
        device=device_of(config.execution.device),
        execution=config.execution,
        reference=reference,
        best=Best(nowhere, {}, {}),
        storage=None,
        log=Log(None, None),
        stopwatch=Stopwatch(nowhere / "seconds.json"),
    )
