"""Keep a pool of workers on a Ray cluster: lost ones are replaced, and more are started when nodes join."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.executors.base import Evaluate, Job
from search.executors.driver_place import import_paths
from search.executors.ray_cluster import ClusterError, Share, connect, describe, room
from search.executors.ray_settings import RaySettings
from search.executors.ray_worker import Begun, RayWorker, TrainedSoFar
from search.output.exhaustion import exhausted
from search.study.trial import Trial
from spaces.errors import SecateursError

if TYPE_CHECKING:
    from search.executors.trial_checkpoints import EndState

LOOK_EVERY_SECONDS = 2.0
TELL_EVERY_SECONDS = 10.0
PATIENCE_SECONDS = 300.0
GIVE_UP_AFTER = 3
RETRY_SECONDS = 60.0
GATHER_SECONDS = 2e-4
MOST_GATHER_SECONDS = 0.02


@dataclass(eq=False)
class Worker:
    """Worker, as the driver sees it.

    Attributes:
        actor: Ray's handle of the worker.
        pending: Reference of its next answer, on its preparation or on its jobs; None for an idle one.
        ready: Whether it has loaded model and data.
        jobs: The jobs it was given.
        begun: Whether it has reported that it began with them.
    """

    actor: Any
    pending: Any
    ready: bool = False
    jobs: Sequence[Job] = ()
    begun: bool = False


@dataclass(frozen=True)
class Gone:
    """End of a worker, with its cause in a few words."""

    reason: str


Answer = list[Trial] | TrainedSoFar | Gone


class Pool:
    """Workers on a cluster: as many as the settings ask for and the cluster has room for, at any time.

    Args:
        pack: Returns the factory that is sent to the workers and makes their ``evaluate`` there.
        share: CPUs and GPUs of each worker.
        settings: The executor's settings.
    """

    def __init__(self, pack: Callable[[], Callable[[], Evaluate]], share: Share, settings: RaySettings) -> None:
        self._pack = pack
        self._share = share
        self._settings = settings
        self._factory: Any = None
        self.workers: list[Worker] = []
        self._look_at = 0.0
        self._tell_at = 0.0
        self._told = (0, 0)
        self._failures: list[str] = []
        self._alone_since = 0.0

    def start(self) -> None:
        """Attach to the cluster and make the first workers; later calls do nothing.

        Raises:
            ClusterError: There is no cluster, or no room on it for the workers asked for.
        """
        if self._factory is not None:
            return
        connect(self._settings, self._share)
        import ray

        places, wanted = room(self._share), self._settings.workers
        if places < (wanted or 1):
            raise ClusterError(
                f"execution.workers: {wanted or 'a single'} worker{'s' if (wanted or 1) > 1 else ''} of {self._share} each "
                f"do not fit on the cluster, {describe()}, which has room for {places}: lower execution.workers (or leave it "
                "out, to use what there is), cpus_per_trial or gpus_per_trial, or add nodes"
            )
        self._factory = ray.put(self._pack())
        self._alone_since = time.monotonic()
        self._look()

    @property
    def ready(self) -> list[Worker]:
        """Workers that have loaded model and data."""
        return [worker for worker in self.workers if worker.ready]

    @property
    def idle(self) -> list[Worker]:
        """Workers that wait for jobs."""
        return [worker for worker in self.workers if worker.ready and worker.pending is None]

    @property
    def jobs(self) -> list[Job]:
        """Jobs that were given to workers and are not finished."""
        return [job for worker in self.workers for job in worker.jobs]

    def tend(self) -> Iterator[str]:
        """Start missing workers every two seconds, and yield lines for the log on the number that is ready.

        Raises:
            ClusterError: There has been no worker for a long time.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look()
        ready = len(self.ready)
        if ready:
            self._alone_since = now
        elif now - self._alone_since > PATIENCE_SECONDS:
            raise ClusterError(
                f"no worker of {self._share} could be had for {PATIENCE_SECONDS / 60:.0f} minutes; the cluster is "
                f"{describe()}. Is it used by others, or were nodes lost? The same command goes on from the last recorded trial"
            )
        wanted = max(self._settings.workers or 0, len(self.workers))
        if (ready, wanted) != self._told and (now >= self._tell_at or ready == wanted):
            self._told = (ready, wanted)
            self._tell_at = now + TELL_EVERY_SECONDS
            yield f"{ready} of {wanted} workers ready; the cluster is {describe()}"

    def give(self, worker: Worker, jobs: Sequence[Job], trained: Mapping[int, bytes], starts: Mapping[int, EndState]) -> None:
        """Hand ``jobs`` to an idle worker, with their saved trainings and the end states these start from, by job number."""
        worker.jobs, worker.begun = tuple(jobs), False
        evaluate = worker.actor.evaluate.options(num_returns="streaming")
        worker.pending = evaluate.remote(worker.jobs, dict(trained), dict(starts))

    def answers(self, timeout: float) -> list[tuple[Worker, Answer]]:
        """Return the answers that have arrived; wait for the first for at most ``timeout`` seconds.

        Raises:
            ClusterError: No worker can be prepared.
        """
        import ray

        waiting = {worker.pending: worker for worker in self.workers if worker.pending is not None}
        if not waiting:
            time.sleep(timeout)
            return []
        if ray.wait(list(waiting), num_returns=1, timeout=timeout)[0]:
            # Looking takes time for every worker, so that with many it is done for several answers at once.
            time.sleep(min(GATHER_SECONDS * len(waiting), MOST_GATHER_SECONDS))
        arrived, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        found = [(worker, self._answer(worker)) for worker in map(waiting.__getitem__, arrived)]
        return [(worker, answer) for worker, answer in found if answer is not None]

    def retire(self, worker: Worker) -> None:
        """End a worker, lost or not, and drop it from the pool."""
        import ray

        self.workers.remove(worker)
        self._look_at = min(self._look_at, time.monotonic())
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(worker.actor)

    def close(self) -> None:
        """End all workers."""
        for worker in list(self.workers):
            self.retire(worker)

    def _look(self) -> None:
        """Start the workers that are missing and that the cluster has room for."""
        self._look_at = time.monotonic() + LOOK_EVERY_SECONDS
        places = room(self._share)
        for _ in range(min(self._settings.workers or places, places) - len(self.workers)):
            self.workers.append(self._new())

    def _new(self) -> Worker:
        import ray

        actor_class: Any = ray.remote(num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_restarts=0)(RayWorker)
        actor = actor_class.remote(str(Path.cwd()), import_paths())
        return Worker(actor, actor.prepare.remote(self._factory))

    def _answer(self, worker: Worker) -> Answer | None:
        """Return the answer of a worker; None for one that concerns the pool alone, such as the end of its preparation."""
        import ray

        try:
            reference = next(worker.pending) if worker.ready else worker.pending
            answer = ray.get(reference, timeout=RETRY_SECONDS)
        except ray.exceptions.RayTaskError as error:
            if worker.ready and (lacking := exhausted(error.cause)) is not None:
                return Gone(f"on its machine {lacking.partition(' (')[0].partition(':')[0]}")
            if worker.ready:
                raise
            self._unprepared(worker, _told(error.cause))
            return None
        except ray.exceptions.RayError as error:
            if worker.ready:
                return Gone(why(error))
            self._unprepared(worker, why(error))
            return None
        if not worker.ready:
            worker.ready, worker.pending = True, None
            self._failures.clear()
            return None
        if isinstance(answer, Begun):
            worker.begun = True
            return None
        if isinstance(answer, TrainedSoFar):
            return answer
        worker.pending, worker.jobs = None, ()
        trials: list[Trial] = answer
        return trials

    def _unprepared(self, worker: Worker, reason: str) -> None:
        """End a worker that can't be prepared; raise after three in a row without one that is ready."""
        self.retire(worker)
        self._failures.append(reason)
        if len(self._failures) >= GIVE_UP_AFTER:
            if not self.ready:
                raise ClusterError(f"no worker on the cluster ({describe()}) can be prepared: {reason}")
            self._look_at = time.monotonic() + RETRY_SECONDS


def _told(cause: BaseException | None) -> str:
    """Return the text of a worker's error: a user's mistake whole, the last line of any other."""
    if isinstance(cause, SecateursError):
        return str(cause)
    return str(cause).strip().rpartition("\n")[2] or type(cause).__name__


def why(error: Exception) -> str:
    """Return the cause of a worker's loss in a few words."""
    import ray

    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "OutOfMemory" in text or "memory pressure" in text:
        return "it ran out of memory"
    if "node has died" in text or isinstance(error, ray.exceptions.NodeDiedError | ray.exceptions.ObjectLostError):
        return "its node was lost"
    if isinstance(error, ray.exceptions.RayActorError):
        return "its process died"
    return type(error).__name__
