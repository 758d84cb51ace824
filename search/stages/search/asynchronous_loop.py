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

    _known: int = 0
    _submitted: int = 0
    _kept: int = 0

    def _search(self, recorded: list[Trial]) -> None:
        self.trials.extend(recorded)
        self._tell(recorded)
        self._known = self._kept = len(self.trials)
        while not self._ended() and self._fill():
            for event in self.executor.events():
                found = self._result_of(event)
                if found is not None:
                    # Numbers say the order of the record.
                    trial = replace(found, number=len(self.trials))
                    self.trials.append(trial)
                    self._record(trial)
                    self._tell([trial])
                self._require_success(done=self._tried_enough)
                if self._ended():
                    self.executor.cancel()
                    break
                self._fill()
                self._show(self.trials)
                self._keep(self.batch)
        self._require_success(done=True)
        self._keep(1)

    def _fill(self) -> bool:
        """Give free workers something to do, and say whether any has."""
        under_way = self._submitted - (len(self.trials) - self._known)
        limit = self.executor.free
        if self.budget.evaluations is not None:
            limit = min(limit, self.budget.evaluations - len(self.trials) - under_way)
        proposals = self._ask(limit, waiting=under_way > 0) if limit > 0 else []
        for proposal in proposals:
            self.executor.submit(Job(self._known + self._submitted, proposal))
            self._submitted += 1
        return bool(proposals) or under_way > 0

    def _keep(self, news: int) -> None:
        """Keep the best so far, if there are at least so many new trials."""
        if len(self.trials) - self._kept >= news:
            self._kept = len(self.trials)
            self.on_batch(self.trials)

    def _ended(self) -> bool:
        self.ended_by = self._spent() or ("seconds" if self._out_of_time() else "")
        return bool(self.ended_by)
