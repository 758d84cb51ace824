"""The search loop: ask, evaluate, record, tell; and again from the record after a kill. It knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from search.algorithms.base import Algorithm
from search.executors.base import Executor, Job
from search.progress import Bar
from search.run import Stopwatch
from search.stages.search_settings import BudgetSettings
from search.study import Study, check_replay
from search.trial import Trial
from spaces.errors import SecateursError


class SearchFailedError(SecateursError):
    """A search in which no trial worked."""


@dataclass
class SearchLoop:
    """One search over one study.

    Proposals are asked for in batches of a fixed size and told when the batch is complete, in number order, so that the
    number of workers and their order don't change what is proposed. Trials that the study has already are not evaluated
    again: a fresh algorithm is told them, and must propose what was recorded.

    Attributes:
        algorithm: What to try next.
        study: The record.
        executor: Where trials are evaluated.
        budget: When to end, beside the algorithm's own end.
        batch: Number of proposals asked for at a time.
        stopwatch: Time spent in this search, over all resumes.
        bar: Progress.
        on_batch: Called with all trials after every batch that was not only read from the record.
    """

    algorithm: Algorithm
    study: Study
    executor: Executor
    budget: BudgetSettings
    batch: int
    stopwatch: Stopwatch
    bar: Bar
    on_batch: Callable[[list[Trial]], None]
    trials: list[Trial] = field(default_factory=list)
    ended_by: str = ""

    def run(self) -> list[Trial]:
        """Search to the end and return all trials, in number order.

        Raises:
            SearchFailedError: Every trial of the first batch failed; none of them is recorded, so that the same command
                tries them again.
            StudyError: The record does not fit the algorithm.
        """
        recorded = self.study.trials()
        while self._go_on(len(recorded)):
            limit = self.batch
            if self.budget.evaluations is not None:
                limit = min(limit, self.budget.evaluations - len(self.trials))
            proposals = self.algorithm.ask(limit)
            if not proposals:
                if self.algorithm.finished:
                    break
                raise SecateursError(
                    f"{type(self.algorithm).__name__} proposes nothing, waits for nothing and is not finished: "
                    "expected one of the three; this is a mistake in the algorithm"
                )
            first = len(self.trials)
            jobs = [Job(first + index, proposal) for index, proposal in enumerate(proposals)]
            known = recorded[first : first + len(jobs)]
            for job, trial in zip(jobs, known, strict=False):
                check_replay(trial, job.proposal)
            rest = [] if known and self._out_of_time() else jobs[len(known) :]
            finished = [*known, *self._evaluate(rest, have_success=_any_complete([*self.trials, *known]))]
            self.trials.extend(finished)
            for trial in finished:
                self.algorithm.tell(trial)
            if len(known) < len(finished):
                self.on_batch(self.trials)
        if len(recorded) > len(self.trials):
            raise SecateursError(
                f"the study {self.study.name!r} has {len(recorded)} trials and the search ends after "
                f"{len(self.trials)}; was it changed since it was recorded?"
            )
        return self.trials

    def _go_on(self, recorded: int) -> bool:
        if self.algorithm.finished:
            self.ended_by = "algorithm"
        elif self.budget.evaluations is not None and len(self.trials) >= self.budget.evaluations:
            self.ended_by = "evaluations"
        elif len(self.trials) >= recorded and self._out_of_time():
            self.ended_by = "seconds"
        else:
            return True
        return False

    def _out_of_time(self) -> bool:
        return self.budget.seconds is not None and self.stopwatch.seconds >= self.budget.seconds

    def _evaluate(self, jobs: list[Job], have_success: bool) -> list[Trial]:
        """Evaluate ``jobs`` and record them in number order; when time is up, those that are finished in a row."""
        for job in jobs:
            self.executor.submit(job)
        early: dict[int, Trial] = {}
        finished: list[Trial] = []
        unrecorded: list[Trial] = []
        for event in self.executor.events():
            early[event.trial.number] = event.trial
            while len(finished) < len(jobs) and jobs[len(finished)].number in early:
                trial = early.pop(jobs[len(finished)].number)
                finished.append(trial)
                unrecorded.append(trial)
                have_success = have_success or trial.state == "complete"
                if have_success:
                    for waiting in unrecorded:
                        self.study.add(waiting)
                    unrecorded.clear()
                self.bar.update(trial.number + 1, self._note(finished))
                self.stopwatch.save()
            if have_success and self._out_of_time():
                self.executor.cancel()
                break
        if jobs and not have_success:
            raise SearchFailedError(
                f"every one of the first {len(finished)} trials failed, so the search can't work as configured; "
                f"trial {finished[0].number}: {finished[0].error}"
            )
        return finished

    def _note(self, finished: list[Trial]) -> str:
        failed = sum(trial.state == "failed" for trial in [*self.trials, *finished])
        return f"{failed} failed" if failed else ""


def _any_complete(trials: list[Trial]) -> bool:
    return any(trial.state == "complete" for trial in trials)
