"""Worker process on the cluster: loads model and data once, and evaluates one job after the other."""

from __future__ import annotations

import os
import queue
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.executors.base import Evaluate, Job
from search.executors.driver_place import take_over
from search.study.trial import Trial

if TYPE_CHECKING:
    from torch import Tensor

    from search.executors.trial_checkpoints import EndState


@dataclass(frozen=True)
class Begun:
    """Report of a worker that it has begun with its jobs: a loss from now on may be their fault."""


@dataclass(frozen=True)
class TrainedSoFar:
    """Training of a job up to the end of an epoch, packed by :func:`evaluators.training.checkpoint.pack_checkpoint`."""

    number: int
    content: bytes


class RayWorker:
    """Evaluator of jobs. Imports nothing heavy itself: its ``evaluate`` comes from a factory that is sent to it.

    Args:
        folder: The driver's working folder, in which relative paths are looked for, where this machine has it.
        paths: The driver's import paths, for modules of the user's own.
    """

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        take_over(folder, paths)
        # Jobs have a thread of their own, so that the epochs of a training can be handed out while it goes on.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._evaluate: Evaluate | None = None

    def prepare(self, factory: Callable[[], Evaluate]) -> tuple[str, int]:
        """Load model and data, and return this worker's host name and process number."""
        self._evaluate = self._thread.submit(factory).result()
        return socket.gethostname(), os.getpid()

    def evaluate(
        self, jobs: Sequence[Job], trained: Mapping[int, bytes], starts: Mapping[int, EndState]
    ) -> Iterator[Begun | TrainedSoFar | list[Trial]]:
        """Evaluate ``jobs`` in order; yield trainings as they go on, and at the end all trials.

        Args:
            jobs: The jobs.
            trained: Saved trainings of the jobs, packed, by job number.
            starts: End states that trainings with a warm start begin from, by job number.
        """
        if self._evaluate is None:
            raise RuntimeError("evaluate was called before prepare")
        yield Begun()
        going: queue.SimpleQueue[TrainedSoFar | None] = queue.SimpleQueue()
        done = self._thread.submit(_all, self._evaluate, jobs, trained, starts, going.put)
        done.add_done_callback(lambda _: going.put(None))
        while (trained_so_far := going.get()) is not None:
            yield trained_so_far
        yield done.result()


def _all(
    evaluate: Evaluate,
    jobs: Sequence[Job],
    trained: Mapping[int, bytes],
    starts: Mapping[int, EndState],
    send: Callable[[TrainedSoFar], None],
) -> list[Trial]:
    return [evaluate(job, SentCheckpoint(job.number, trained.get(job.number), send), starts.get(job.number)) for job in jobs]


class SentCheckpoint:
    """Checkpoint that is sent to the driver whenever it is saved.

    Args:
        number: The job's number.
        content: The state saved so far, packed, or None.
        send: Sends a state to the driver.
    """

    on_disk = False

    def __init__(self, number: int, content: bytes | None, send: Callable[[TrainedSoFar], None]) -> None:
        self._number = number
        self._content = content
        self._send = send

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the last state saved, or None where there is none."""
        from evaluators.training.checkpoint import unpack_checkpoint

        return unpack_checkpoint(self._content) if self._content is not None else None

    def save(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Send the state to the driver."""
        from evaluators.training.checkpoint import pack_checkpoint

        self._content = pack_checkpoint(tensors, data)
        self._send(TrainedSoFar(self._number, self._content))
