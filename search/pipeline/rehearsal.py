"""The rehearsal: checks of every stage before the run, each on a network of about the structure that it will get."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.output.progress import Log
from search.pipeline.estimate import Passage
from search.pipeline.preflight import named, preflight
from search.pipeline.start import Start
from search.run.stage_run import DryRun, device_of
from search.stages.base import following_training, placed_stages

if TYPE_CHECKING:
    from search.config.loading import Config


def rehearse(config: Config, start: Start | None = None, passages: list[Passage] | None = None) -> Iterator[str]:
    """Check a whole run before anything is written, and yield a line per check that passed.

    Behind a search, stages are checked on the network of one of its candidates, whose structure is about the one they will get.
    Channels that a sparse training removes are not known beforehand: behind one, a target out of reach is left to the search.

    Args:
        config: The configuration.
        start: Task, network and spaces, for a run that goes on with what is built here.
        passages: Filled with the stages and the networks on which they were checked, and with times; None to time nothing.

    Raises:
        SecateursError: The run can't work as configured.
    """
    start = Start(config) if start is None else start
    yield from preflight(config, start)
    network = reference = start.network
    smaller = unknown = False
    stages = placed_stages(config)
    for placed in stages:
        stage = placed.stage
        if not stage.compresses:
            continue
        run = DryRun(
            step=placed.step,
            seed=config.seed,
            task=start.task,
            device=device_of(config.execution.device),
            execution=config.execution,
            reference=reference,
            log=Log(None, None),
            smaller=smaller,
            built=start.built,
            following=following_training(stages, placed.index),
            timed=passages is not None,
        )
        try:
            with named(placed.step):
                checked = stage.check(network, run)
        except UnreachableTargetError:
            if not unknown:
                raise
            # Nothing more can be said of what comes behind.
            return
        yield from run.passed
        if passages is not None:
            passages.append(Passage(placed, network, tuple(run.seconds)))
        smaller = smaller or stage.removes
        unknown = unknown or (stage.removes and checked is network)
        network = checked
