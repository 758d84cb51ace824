"""The search loop: ask, evaluate, record, tell; and again from the record after a kill. It knows no algorithm."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from search.algorithms.base import Algorithm
from search.executors.base import Event, Executor, Job
from search.executors.trial_checkpoints import TrialCheckpoints
from search.output.progress import Bar
from search.run.stage_run import Stopwatch
from search.stages.search.search_note import SearchNote
from search.stages.search.settings import BudgetSettings
from search.study.pareto import complete_trials
from search.study.study import Study
from search.study.trial import Proposal, Trial
from spaces.errors import SecateursError

LEAST_TRIED = 3
"""Trials that are tried, if all fail, before a search is given up, where its batches are smaller."""


class SearchFailedError(SecateursError):
    """A search in which no trial worked."""


@dataclass
class SearchLoop(ABC):
    """One search over one study; the subclasses say when proposals are asked for and in which order trials are told.

    Trials that the study has already are not evaluated again. Time is not up before a trial was measured in full, so that there
    is something to deliver; an algorithm that concludes (:meth:`.Algorithm.conclude`) does so behind that time, and within the
    budget of evaluations. Nothing is recorded before a first trial has worked, so that a search that can't work as configured
    leaves no record.

    Attributes:
        algorithm: What to try next.
        study: The record.
        executor: Where trials are evaluated.
        checkpoints: Where the trainings of trials are kept, and their end states: of the trials that the algorithm may start
            others from, and of the best.
        budget: When to end, beside the algorithm's own end.
        batch: Number of proposals asked for at a time, where they are asked for in batches.
        stopwatch: Time spent in this search, over all resumes.
        bar: Progress.
        note: What is shown beside it.
        log: Takes a line about something out of the ordinary, and its level.
        on_batch: Called with all trials after every batch that was not only read from the record.
    """

    algorithm: Algorithm[Any]
    study: Study
    executor: Executor[Any]
    checkpoints: TrialCheckpoints
    budget: BudgetSettings
    batch: int
    stopwatch: Stopwatch
    bar: Bar
    note: SearchNote
    log: Callable[[str, int], None]
    on_batch: Callable[[list[Trial]], None]
    trials: list[Trial] = field(default_factory=list)
    ended_by: str = ""
    _unrecorded: list[Trial] = field(default_factory=list)
    _any_worked: bool = False
    _any_in_full: bool = False
    _seconds_of_steps: float = 0.0
    _concluding: str = ""
    _told_errors: set[str] = field(default_factory=set)

    def run(self) -> list[Trial]:
        """Search to the end and return all trials, in number order.

        Raises:
            SearchFailedError: Every trial of the first batch failed; none of them is recorded, so that the same command
                tries them again.
            StudyError: The record does not fit the algorithm.
        """
        recorded = self.study.trials()
        for trial in recorded:
            self.checkpoints.keep(trial)
        self._any_worked = any(trial.state == "complete" for trial in recorded)
        self._any_in_full = bool(complete_trials(recorded, self.study.problem))
        self._search(recorded)
        if len(recorded) > len(self.trials):
            raise SecateursError(
                f"the study {self.study.name!r} has {len(recorded)} trials and the search ends after "
                f"{len(self.trials)}; was it changed since it was recorded?"
            )
        return self.trials

    @abstractmethod
    def _search(self, recorded: list[Trial]) -> None:
        """Search until the budget is spent, ``recorded`` being what the study has already."""

    def _ask(self, limit: int, waiting: bool) -> list[Proposal]:
        """Return at most ``limit`` proposals; none only where the algorithm is ``waiting`` for trials, or finished."""
        proposals = self.algorithm.ask(limit)
        if not proposals and not waiting and not self.algorithm.finished:
            raise SecateursError(
                f"{type(self.algorithm).__name__} proposes nothing, waits for nothing and is not finished: "
                "expected one of the three; this is a mistake in the algorithm"
            )
        return proposals

    def _within_budget(self, limit: int, under_way: int = 0) -> int:
        """Return how many of at most ``limit`` proposals may be asked for; steps are no evaluations, and leave it as it is."""
        if self.budget.evaluations is None or self.algorithm.measures_solved:
            return limit
        return min(limit, self.budget.evaluations - len(self.trials) - under_way)

    def _measured(self, job: Job) -> Trial | None:
        """Return the trial of a job that carries its metrics, with the seconds of the steps before it; None of any other."""
        metrics = job.proposal.measured
        if metrics is None:
            return None
        seconds, self._seconds_of_steps = self._seconds_of_steps, 0.0
        return Trial(job.number, job.proposal, "complete", metrics, seconds)

    def _tell_step(self, trial: Trial) -> None:
        """Tell the algorithm of the trial of a step, which the study does not record."""
        self._seconds_of_steps += trial.seconds
        if trial.error and trial.error not in self._told_errors:
            self._told_errors.add(trial.error)
            self.log(f"candidate {trial.proposal.candidate.fingerprint} failed: {trial.error}", logging.WARNING)
        self.algorithm.tell(trial)

    def _result_of(self, event: Event) -> Trial | None:
        """Return the finished trial of an event, None without one, and pass the event's line to the log."""
        if event.line:
            self.log(event.line, event.level)
        return event.finished

    def _record(self, trial: Trial) -> None:
        """Add a trial to the study, as soon as any trial has worked."""
        self._unrecorded.append(trial)
        self._any_worked = self._any_worked or trial.state == "complete"
        self._any_in_full = self._any_in_full or bool(complete_trials([trial], self.study.problem))
        if self._any_worked:
            for waiting in self._unrecorded:
                self.study.add(waiting)
                self.checkpoints.keep(waiting)
            self._unrecorded.clear()
        self.stopwatch.save()

    def _tell(self, trials: list[Trial]) -> None:
        """Tell the algorithm of trials, and let go of the end states that neither it nor the result needs."""
        for trial in trials:
            self.algorithm.tell(trial)
        if self.checkpoints.folder.exists():
            chosen = self.algorithm.incumbent(self.trials)
            needed = {*self.algorithm.warm_starts, *(() if chosen is None else (chosen.number,))}
            self.checkpoints.retain(needed, below=len(self.trials))

    def _show(self, trials: list[Trial]) -> None:
        self.bar.update(len(trials), self.note.text(trials, self.executor.busy, self.executor.workers))

    @property
    def _tried_enough(self) -> bool:
        """True if so many trials failed, and none worked, that the search can't be expected to work."""
        return len(self._unrecorded) >= max(self.batch, LEAST_TRIED)

    def _require_success(self, done: bool) -> None:
        """Stop a search of which everything so far failed.

        Args:
            done: Whether enough trials have been tried.
        """
        if done and self._unrecorded:
            first = self._unrecorded[0]
            raise SearchFailedError(
                f"every one of the first {len(self._unrecorded)} trials failed, so the search can't work as configured; "
                f"trial {first.number}: {first.error}"
            )

    def _spent(self) -> str:
        """Return which budget is spent, empty while none is."""
        if self.algorithm.finished:
            return self._concluding or "algorithm"
        left = math.inf if self.budget.evaluations is None else self.budget.evaluations - len(self.trials)
        if left <= 0:
            return "evaluations"
        return self._conclude("evaluations") if left <= self.algorithm.closing and not self._concluding else ""

    def _conclude(self, budget: str) -> str:
        """Let the algorithm conclude since ``budget`` is spent; return that budget if nothing is left to do, else empty."""
        if not self.algorithm.closing:
            return budget
        self._concluding = budget
        self.algorithm.conclude()
        return budget if self.algorithm.finished else ""

    def _out_of_time(self) -> bool:
        if self._concluding or not self._any_in_full or self.budget.seconds is None:
            return False
        return self.stopwatch.seconds >= self.budget.seconds
