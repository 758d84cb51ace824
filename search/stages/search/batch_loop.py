"""Searching in batches: the same trials, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from search.executors.base import Idle, Job
from search.stages.search.loop import SearchLoop
from search.study.study import check_replay
from search.study.trial import Proposal, Trial
from spaces.errors import SecateursError


class BatchLoop(SearchLoop):
    """Asks for batches of a fixed size and tells a batch when it is complete, in number order.

    So neither the number of workers nor their order changes what is proposed. A fresh algorithm is told the trials of the
    record, and must propose what was recorded; instead of steps it is told the recorded trial that they came to.
    """

    def _search(self, recorded: list[Trial]) -> None:
        news = False
        while self._go_on(len(recorded)):
            first = len(self.trials)
            proposals = self._ask(self._within_budget(self.batch), waiting=False)
            if not proposals:
                break
            if any(proposal.step is not None for proposal in proposals):
                if first < len(recorded):
                    self.trials.append(recorded[first])
                    self._tell(recorded[first : first + 1])
                else:
                    self._take_steps(proposals, news)
                    news = False
                continue
            jobs = [Job(first + index, proposal) for index, proposal in enumerate(proposals)]
            known = recorded[first : first + len(jobs)]
            for job, trial in zip(jobs, known, strict=False):
                check_replay(trial, job.proposal)
            rest = [] if known and self._out_of_time() else jobs[len(known) :]
            ready = {job.number: made for job in rest if (made := self._measured(job)) is not None}
            for job in rest:
                if job.number not in ready:
                    self.executor.submit(job)
            # While workers are at the next batch already.
            if news:
                self.on_batch(self.trials)
            finished = [*known, *self._evaluate(rest, known, ready)]
            self.trials.extend(finished)
            self._tell(finished)
            news = len(known) < len(finished)
        self._require_success(done=True)
        if news:
            self.on_batch(self.trials)

    def _go_on(self, recorded: int) -> bool:
        self.ended_by = self._spent()
        if not self.ended_by and len(self.trials) >= recorded and self._out_of_time():
            self.ended_by = self._conclude("seconds")
        return not self.ended_by

    def _take_steps(self, proposals: list[Proposal], news: bool) -> None:
        """Evaluate proposals with a step, and tell their trials in the order of asking; none of them when time is up.

        Args:
            proposals: The proposals.
            news: Whether trials were recorded that :attr:`on_batch` does not know yet.
        """
        if any(proposal.step is None for proposal in proposals):
            raise SecateursError(
                f"{type(self.algorithm).__name__} proposes candidates with a step beside others: expected either; this is a "
                "mistake in the algorithm"
            )
        first = len(self.trials)
        found: dict[int, Trial] = {}
        for index, proposal in enumerate(proposals):
            self.executor.submit(Job(first + index, proposal))
        # While workers are at the steps already.
        if news:
            self.on_batch(self.trials)
        for event in self.executor.events():
            trial = self._result_of(event)
            if trial is not None:
                found[trial.number] = trial
            self._show(self.trials)
            if self._out_of_time():
                self.executor.cancel()
                return
        for number in sorted(found):
            self._tell_step(found[number])
        self.stopwatch.save()

    def _evaluate(self, jobs: list[Job], known: list[Trial], ready: Mapping[int, Trial]) -> list[Trial]:
        """Record ``jobs`` in number order; when time is up, those that are finished in a row.

        Args:
            jobs: The jobs, submitted except those that are ``ready``.
            known: Trials before them that are recorded.
            ready: Trials of jobs that need no evaluation, by number.
        """
        early: dict[int, Trial] = dict(ready)
        finished: list[Trial] = []
        for event in chain([Idle()] if ready else [], self.executor.events()):
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
