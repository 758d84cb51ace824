"""Searching without waiting: whoever is free gets something to do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from search.executors.base import Job
from search.stages.search.loop import SearchLoop
from search.study.trial import Trial


@dataclass
class AsynchronousLoop(SearchLoop):
    """Asks whenever a worker is free, and tells and records trials in the order in which they are finished.

    A straggler holds up nobody, unless the algorithm itself waits for it. What is proposed depends on who was faster, so the
    same search twice may find different networks; a resumed one tells a fresh algorithm all recorded trials and goes on.
    """

    _next: int = 0
    _under_way: int = 0
    _kept: int = 0

    def _search(self, recorded: list[Trial]) -> None:
        self.trials.extend(recorded)
        self._tell(recorded)
        self._next = self._kept = len(self.trials)
        while not self._ended() and self._fill():
            for event in self.executor.events():
                found = self._result_of(event)
                if found is not None:
                    self._under_way -= 1
                    self._take(found)
                self._require_success(done=self._tried_enough)
                if self._ended():
                    self.executor.cancel()
                    break
                self._fill()
                self._show(self.trials)
                self._keep(self.batch)
        self._require_success(done=True)
        self._keep(1)

    def _take(self, trial: Trial) -> None:
        """Tell a finished trial, and record it unless it is that of a step."""
        if trial.proposal.step is not None:
            self._tell_step(trial)
            return
        # Numbers say the order of the record.
        trial = replace(trial, number=len(self.trials))
        self.trials.append(trial)
        self._record(trial)
        self._tell([trial])

    def _fill(self) -> bool:
        """Give free workers something to do, and say whether any has."""
        while True:
            limit = self._within_budget(self.executor.free, self._under_way)
            proposals = self._ask(limit, waiting=self._under_way > 0) if limit > 0 else []
            jobs = [Job(self._next + index, proposal) for index, proposal in enumerate(proposals)]
            self._next += len(jobs)
            measured = [trial for job in jobs if (trial := self._measured(job)) is not None]
            for trial in measured:
                self._take(trial)
            for job in jobs:
                if job.proposal.measured is None:
                    self.executor.submit(job)
                    self._under_way += 1
            if not measured or self._ended():
                return self._under_way > 0

    def _keep(self, news: int) -> None:
        """Keep the best so far, if there are at least so many new trials."""
        if len(self.trials) - self._kept >= news:
            self._kept = len(self.trials)
            self.on_batch(self.trials)

    def _ended(self) -> bool:
        self.ended_by = self._spent() or (self._conclude("seconds") if self._out_of_time() else "")
        return bool(self.ended_by)
