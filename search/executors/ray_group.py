"""Processes on a Ray cluster that train a network together, started again as a whole when one of them is lost."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from search.executors.driver_place import import_paths
from search.executors.ray_cluster import ClusterError, Share, connect, describe, room, set_environment
from search.executors.ray_pool import why
from search.executors.ray_settings import RaySettings
from search.executors.ray_worker import TrainedSoFar
from search.executors.training_group import PREPARE_SECONDS, LostGroupError, PackedWork, TrainingGroup
from search.executors.training_rank import Alive, Ended, Failed, Refused, TrainingRank
from spaces.errors import error_line

if TYPE_CHECKING:
    from evaluators.training.checkpoint import FileCheckpoint
    from search.config.loading import Execution


LOOK_SECONDS = 5.0
"""Seconds between two looks at the cluster while processes wait for a place on it."""


class _LostError(Exception):
    """A process was lost, or is silent."""


class _LessRoomError(Exception):
    """The cluster has room for ``size`` processes, fewer than there were."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class RayGroup(TrainingGroup):
    """Processes on a Ray cluster, which are there until they are closed or one of them is lost.

    Where nodes go, fewer processes go on, if these train the same network.

    Class attributes:
        had: Most processes that there was room for, of all groups of this process: a cluster that had room has lost it.

    Args:
        execution: Their number, what is set aside for each, their patience and how often they start again.
        tell: Takes a line on every loss.
    """

    had: ClassVar[int] = 0

    def __init__(self, execution: Execution, tell: Callable[[str], None]) -> None:
        """Keep the settings; nothing is started before :meth:`train`."""
        self.execution = execution
        self.tell = tell
        self._actors: list[Any] = []
        self._prepared: PackedWork | None = None
        self._ray_is_own = False
        given = execution.executor.settings
        self._settings = given if isinstance(given, RaySettings) else RaySettings(workers=execution.training_workers)
        # What is trained is packed by a part of Ray, which is imported for that.
        set_environment(self._settings)

    def train(
        self,
        factory: PackedWork,
        checkpoint: FileCheckpoint,
        on_epoch: Callable[[Any], None] = lambda record: None,
        order: Any = None,
    ) -> Any:
        """Return what the first process returns; see :meth:`.TrainingGroup.train`.

        Raises:
            ClusterError: There is no cluster, or no room on it.
            LostGroupError: Processes were lost too often.
            SecateursError: The training can't be carried out as configured.
        """
        share, aside = self._connect()
        size, lost = len(self._actors) or self.execution.training_workers, 0
        while True:
            try:
                return self._attempt(size, share, factory, checkpoint, on_epoch, aside, order)
            except _LessRoomError as error:
                self._end()
                size = error.size
                self.tell(f"the cluster is {describe()} now: training goes on with {size} workers")
            except _LostError as error:
                self._end()
                lost += 1
                if lost > self.execution.retries:
                    raise LostGroupError(
                        f"training on {size} workers of {share}: {error}, {lost} times in all (execution.retries); the same "
                        "command goes on from the last epoch"
                    ) from None
                self.tell(f"{error}; all training workers start again from the last epoch")

    def _require_room(self, size: int, share: Share, factory: PackedWork) -> None:
        """Raise where nodes of the cluster have gone, and fewer workers train the same network.

        Raises:
            _LessRoomError: Fewer are to go on.
        """
        if self._settings.address is None or (places := room(share)) >= size:
            return
        if fewer := next((ranks for ranks in range(places, 0, -1) if factory.allows(ranks)), 0):
            raise _LessRoomError(fewer)

    def _connect(self) -> tuple[Share, Share]:
        """Attach to the cluster, and return what a process uses, and what Ray sets aside for it."""
        execution, size, settings = self.execution, self.execution.training_workers, self._settings
        gpus = execution.gpus_per_training_worker
        share = Share(float(execution.threads_per_trial), settings.gpus_per_trial if gpus is None else gpus)
        self._ray_is_own = connect(settings, share) or self._ray_is_own
        if settings.address is None:
            # No trial runs meanwhile, and nobody else is here.
            return share, Share(0.0, share.gpus)
        places = room(share)
        RayGroup.had = max(RayGroup.had, places)
        if RayGroup.had < size:
            raise ClusterError(
                f"execution.training_workers: {size} workers of {share} each do not fit on the cluster, {describe()}, which "
                f"has room for {places}: lower training_workers, threads_per_trial or gpus_per_training_worker, or add nodes"
            )
        return share, share

    def _attempt(
        self,
        size: int,
        share: Share,
        factory: PackedWork,
        checkpoint: FileCheckpoint,
        on_epoch: Callable[[Any], None],
        aside: Share,
        order: Any,
    ) -> Any:
        import ray

        if not self._actors:
            actor_class: Any = ray.remote(num_cpus=aside.cpus, num_gpus=aside.gpus, max_restarts=0)(TrainingRank)
            self._actors = [actor_class.remote(str(Path.cwd()), import_paths()) for _ in range(size)]
        actors = self._actors
        if factory is not self._prepared:
            # Networks are large: they are put where all can read them once.
            work = ray.put(factory)
            for answer in self._prepared_all([actor.prepare.remote(work) for actor in actors], share, factory):
                if isinstance(answer, Refused):
                    raise answer.error
            self._prepared = factory
        (place,) = self._got([actors[0].listen.remote()], PREPARE_SECONDS)
        trained, timeout = checkpoint.packed(), self.execution.training_timeout
        ranks = [
            actor.run.options(num_returns="streaming").remote(rank, size, place, order, trained, timeout)
            for rank, actor in enumerate(actors)
        ]
        return self._followed(ranks, checkpoint, on_epoch)

    def close(self) -> None:
        """End the processes, and the Ray that they were started on, if it was started for them."""
        self._end()
        if self._ray_is_own:
            import ray

            ray.shutdown()
            self._ray_is_own = False

    def _end(self) -> None:
        if not self._actors:
            return
        import ray

        for actor in self._actors:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(actor)
        self._actors, self._prepared = [], None

    def _prepared_all(self, answers: Sequence[Any], share: Share, factory: PackedWork) -> list[Any]:
        """Return what all processes answer, once there is a place for each and they have loaded network and data."""
        import ray

        deadline = time.monotonic() + PREPARE_SECONDS
        while time.monotonic() < deadline:
            there, waiting = ray.wait(list(answers), num_returns=len(answers), timeout=LOOK_SECONDS)
            if not waiting:
                break
            # One that has failed is told of at once.
            self._got(there, LOOK_SECONDS)
            self._require_room(len(answers), share, factory)
        return self._got(answers, LOOK_SECONDS)

    def _got(self, references: Sequence[Any], timeout: float) -> list[Any]:
        import ray

        try:
            found: list[Any] = ray.get(list(references), timeout=timeout)
        except ray.exceptions.RayTaskError as error:
            raise _LostError(f"a training worker failed: {_told(error)}") from None
        except ray.exceptions.RayError as error:
            raise _LostError(f"a training worker is lost: {why(error)}") from None
        return found

    def _followed(self, ranks: Sequence[Any], checkpoint: FileCheckpoint, on_epoch: Callable[[Any], None]) -> Any:
        """Return the first rank's result, when all have ended; save and tell what it tells meanwhile."""
        results: dict[int, Any] = {}
        for number, message in self._messages(ranks):
            if isinstance(message, TrainedSoFar):
                checkpoint.replace(message.content)
            elif isinstance(message, Refused):
                raise message.error
            elif isinstance(message, Failed):
                raise _LostError(f"training worker {number} failed: {message.reason}")
            elif isinstance(message, Ended):
                results[number] = message.result
                if len(results) == len(ranks):
                    break
            elif not isinstance(message, Alive):
                on_epoch(message)
        return results[0]

    def _messages(self, ranks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield what every rank tells, with its number.

        Raises:
            _LostError: One is lost, fails, or tells nothing for longer than it may.
        """
        import ray

        timeout = self.execution.training_timeout
        heard = {number: time.monotonic() for number in range(len(ranks))}
        going = dict(enumerate(ranks))
        while going:
            arrived, _ = ray.wait(list(going.values()), num_returns=1, timeout=min(timeout / 4, 5.0))
            for number in [number for number, rank in going.items() if rank in arrived]:
                try:
                    message = ray.get(next(going[number]), timeout=timeout)
                except StopIteration:
                    del going[number]
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise _LostError(f"training worker {number} failed: {_told(error)}") from None
                except ray.exceptions.RayError as error:
                    raise _LostError(f"training worker {number} is lost: {why(error)}") from None
                heard[number] = time.monotonic()
                yield number, message
            silent = min(going, key=lambda number: heard[number], default=None)
            quiet = 0.0 if silent is None else time.monotonic() - heard[silent]
            if quiet > timeout:
                raise _LostError(f"training worker {silent} has been silent for {math.ceil(quiet)} s")


def _told(error: Any) -> str:
    return error_line(error.cause).partition("\n")[0]
