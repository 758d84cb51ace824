"""The command ``run`` in several processes that torchrun has started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from search.config.loading import Config


@contextmanager
def sharing() -> Iterator[Callable[[Config], Config] | None]:
    """Yield what a configuration becomes in this process, the first one; None in the others, behind what they were to do.

    A process that was started alone goes on as configured. With torchrun the first one evaluates trials itself, without Ray,
    and trains with all of them.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield lambda config: config
        return
    from search.executors.launched import launched, serve

    post = launched()
    if post is None:
        yield lambda config: config
    elif post.launch.rank:
        serve(post)
        yield None
    else:
        try:
            yield lambda config: _together(config, post.launch.size)
        finally:
            post.end()


def _together(config: Config, size: int) -> Config:
    from search.config.registries import EXECUTOR

    execution = config.execution
    if execution.executor.name != "serial" or execution.training_workers not in (1, size):
        typer.echo(f"torchrun: trainings run in {size} processes; trials are evaluated by the first one alone, without Ray")
    changed = execution.model_copy(update={"executor": EXECUTOR.parse("serial"), "training_workers": size})
    return config.model_copy(update={"execution": changed})
