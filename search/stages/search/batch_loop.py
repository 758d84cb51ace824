"""Searching in batches: the same trials, whatever the number of workers."""

from __future__ import annotations

from search.executors.base import Job
from search.stages.search.loop import SearchLoop
from search.study.study import check_replay
from search.study.trial import Trial


class BatchLoop(SearchLoop):
    """Asks for batches of a fixed size and tells a batch when it is complete, in number order.

    So neither the number of workers nor their order changes what is proposed. A fresh algorithm is told the trials of the
    record, and must propose what was recorded.
    """

    def _search(self, recorded: list[Trial]) -> None:
        news = False
        while self._go_on(len(recorded)):
            first = len(self.trials)
            limit = self.batch
            if self.budget.evaluations is not None:
                limit = min(limit, self.budget.evaluations - first)
            proposals = self._ask(limit, waiting=False)
            if not proposals:
                break
            jobs = [Job(first + index, proposal) for index, proposal in enumerate(proposals)]
            known = recorded[first : first + len(jobs)]
            for job, trial in zip(jobs, known, strict=False):
                check_replay(trial, job.proposal)
            rest = [] if known and self._out_of_time() else jobs[len(known) :]
            for job in rest:
                self.executor.submit(job)
            # While workers are at the next batch already.
            if news:
                self.on_batch(self.trials)
            finished = [*known, *self._evaluate(rest, known)]
            self.trials.extend(finished)
            self._tell(finished)
            news = len(known) < len(finished)
        self._require_success(done=True)
        if news:
            self.on_batch(self.trials)

    def _go_on(self, recorded: int) -> bool:
        self.ended_by = self._spent()
        if not self.ended_by and len(self.trials) >= recorded and self._out_of_time():
            self.ended_by = "seconds"
        return not self.ended_by

    def _evaluate(self, jobs: list[Job], known: list[Trial]) -> list[Trial]:
        """Record the submitted ``jobs`` in number order; when time is up, those that are finished in a row."""
        early: dict[int, Trial] = {}
        finished: list[Trial] = []
        for event in self.executor.events():
            trial = self._result_of(event)
            if trial is not None:
                early[trial.number] = trial
            while len(finished) < len(jobs) and jobs[len(finished)].number in early:
                finished.append(early.pop(jobs[len(finished)].number))
                self._record(finished[-1])
            self._show([*self.trials, *known, *finished])
            if self._out_of_time():
                self.executor.cancel()
                break
        self._require_success(done=self._tried_enough)
        return finished
