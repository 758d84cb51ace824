"""Evaluate trials on a Ray cluster, side by side in workers that load model and data once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from search.executors.base import Event, Executor, Idle, Job, Lost, Notice, Result, Saved, Workload
from search.executors.ray_cluster import ClusterError, Share, connect, require_ray, require_room_here
from search.executors.ray_pool import Gone, Pool, Worker
from search.executors.ray_settings import RaySettings
from search.executors.ray_worker import TrainedSoFar
from search.study.trial import Proposal, Step, Trial

if TYPE_CHECKING:
    from search.executors.trial_checkpoints import EndState

CHUNK_SECONDS = 0.25
IDLE_SECONDS = 1.0
MOST_LOSSES = 10


class RayExecutor(Executor[RaySettings]):
    """Executor with workers on a Ray cluster; the jobs of a lost worker are evaluated again by another.

    Short jobs are handed out several at a time (about a quarter of a second's worth), so that the driver does not limit the
    rate. The loss of a worker counts against its first unfinished job; after ``retries`` losses that job is a failed trial,
    and the search goes on.

    Args:
        workload: The evaluation to carry out.
        settings: The cluster, and the share of it to use.
    """

    Settings = RaySettings

    def __init__(self, workload: Workload, settings: RaySettings) -> None:
        super().__init__(workload, settings)
        share = Share.of(settings, workload.threads)
        device = _device(workload.device, share)
        self._pool = Pool(partial(workload.pack, device), share, settings)
        self._queue: deque[Job] = deque()
        self._losses: Counter[int] = Counter()
        self._blamed: Counter[int] = Counter()
        self._seconds: dict[tuple[float, Step | None], float] = {}

    @classmethod
    def check(cls, settings: RaySettings, threads: int) -> None:
        """Raise unless Ray is installed, this machine can carry the workers, and a cluster with an address can be reached."""
        require_ray()
        require_room_here(settings)
        if settings.address is not None:
            connect(settings, Share.of(settings, threads))

    @property
    def free(self) -> int:
        """Number of workers without a job; at least 1 while nothing is under way, so that the first job starts a cluster."""
        self._pool.start()
        under_way = len(self._queue) + len(self._pool.jobs)
        return max(len(self._pool.workers) - under_way, 0 if under_way else 1)

    @property
    def workers(self) -> int:
        """Number of workers that have loaded model and data."""
        return len(self._pool.ready)

    @property
    def busy(self) -> int:
        """Number of workers with a job."""
        return sum(1 for worker in self._pool.workers if worker.jobs)

    def submit(self, job: Job) -> None:
        """Queue a job, and hand it out at once where a worker is idle."""
        self._pool.start()
        self._queue.append(job)
        self._hand_out()

    def events(self) -> Iterator[Event]:
        """Yield results, saved trainings, losses and notices until no job is queued or under way."""
        while self._queue or self.busy:
            for text in self._pool.tend():
                yield Notice(text)
            self._hand_out()
            found: list[Event] = []
            for worker, answer in self._pool.answers(IDLE_SECONDS):
                if isinstance(answer, Gone):
                    found.extend(self._lost(worker, answer.reason))
                elif isinstance(answer, TrainedSoFar):
                    self._keep(worker, answer)
                    found.append(Saved(answer.number))
                else:
                    found.extend(self._finished(answer))
            # The driver takes its time over results: workers get their next jobs before that.
            self._hand_out()
            yield from found or (Idle(),)

    def cancel(self) -> None:
        """Drop the queued jobs, and end the workers that have one."""
        self._queue.clear()
        for worker in [worker for worker in self._pool.workers if worker.jobs]:
            self._pool.retire(worker)

    def close(self) -> None:
        """Drop the queued jobs, and end all workers."""
        self._queue.clear()
        self._pool.close()

    def _hand_out(self) -> None:
        for worker in self._pool.idle:
            if not self._queue:
                return
            jobs = self._chunk()
            self._pool.give(worker, jobs, self._trained(jobs), self._starts(jobs))

    def _chunk(self) -> list[Job]:
        """Take the next jobs off the queue: several short ones, but never so many that workers run out of them early."""
        most = max(1, len(self._queue) // (2 * len(self._pool.ready)))
        jobs = [self._queue.popleft()]
        seconds = self._expected(jobs[0])
        while self._queue and len(jobs) < most and seconds + self._expected(self._queue[0]) <= CHUNK_SECONDS:
            jobs.append(self._queue.popleft())
            seconds += self._expected(jobs[-1])
        return jobs

    def _expected(self, job: Job) -> float:
        """Return the expected seconds of a job; a whole chunk's where unknown, or after a loss, so that it goes alone."""
        if self._losses[job.number]:
            return CHUNK_SECONDS
        return self._seconds.get(_effort(job.proposal), CHUNK_SECONDS)

    def _trained(self, jobs: list[Job]) -> dict[int, bytes]:
        """Return the saved trainings of the jobs, packed, by job number."""
        if self._workload.checkpoints is None:
            return {}
        found = {job.number: self._workload.checkpoints.of(job.proposal).packed() for job in jobs}
        return {number: content for number, content in found.items() if content is not None}

    def _starts(self, jobs: list[Job]) -> dict[int, EndState]:
        """Return the end states that the jobs' trainings start from, by job number; only jobs with a warm start have one."""
        if self._workload.checkpoints is None:
            return {}
        found = {job.number: self._workload.checkpoints.start(job.proposal) for job in jobs}
        return {number: state for number, state in found.items() if state is not None}

    def _keep(self, worker: Worker, trained: TrainedSoFar) -> None:
        if self._workload.checkpoints is not None:
            proposal = next(job.proposal for job in worker.jobs if job.number == trained.number)
            self._workload.checkpoints.of(proposal).replace(trained.content)

    def _finished(self, trials: list[Trial]) -> Iterator[Event]:
        for trial in trials:
            effort = _effort(trial.proposal)
            self._seconds[effort] = 0.8 * self._seconds.get(effort, trial.seconds) + 0.2 * trial.seconds
            self._losses.pop(trial.number, None)
            self._blamed.pop(trial.number, None)
            yield Result(trial)

    def _lost(self, worker: Worker, reason: str) -> Iterator[Event]:
        """Queue the jobs of a lost worker again, or give one up."""
        self._pool.retire(worker)
        again = list(worker.jobs)
        for job in again:
            self._losses[job.number] += 1
        first = again[0]
        self._blamed[first.number] += worker.begun
        # A worker that was lost before it began is no fault of the job's; but a job that always comes to that may be one.
        times = self._blamed[first.number]
        if times > self._settings.retries or self._losses[first.number] > max(MOST_LOSSES, self._settings.retries):
            again.remove(first)
            text = f"WorkerLostError: {self._losses[first.number]} workers were lost with this trial, the last because {reason}"
            yield Result(Trial(first.number, first.proposal, "failed", {}, error=text))
        elif worker.begun:
            yield Lost(first.number, times, reason)
        self._queue.extendleft(reversed(again))


def _effort(proposal: Proposal) -> tuple[float, Step | None]:
    """Return fidelity and step of a proposal without the step's seed: proposals that have them in common take as long."""
    return proposal.fidelity, None if proposal.step is None else replace(proposal.step, seed=0)


def _device(setting: str, share: Share) -> str:
    """Return the device on which workers with this share run networks."""
    if setting == "auto":
        return "cuda" if share.gpus else "cpu"
    if setting.startswith("cuda") and not share.gpus:
        raise ClusterError(
            f"execution.device: {setting} needs a share of a GPU for every worker; set execution.gpus_per_trial, such as 1, "
            "or 0.25 for four workers on one"
        )
    return setting
