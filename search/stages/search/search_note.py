"""Progress of a search in one line, as short for a large network as for a small one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from search.output.numbers import metric_value
from search.output.progress import duration
from search.study.pareto import best, violation
from search.study.problem import Problem
from search.study.trial import Trial


class SearchNote:
    """Tells the best trial so far, what the trials have cost, how many failed, and how many workers are busy.

    Every trial is looked at once, however often the note is asked for.

    Args:
        problem: What is sought.
        incumbent: Returns the trial to deliver of several, by default that of :func:`.best`.
    """

    def __init__(self, problem: Problem, incumbent: Callable[[Sequence[Trial]], Trial | None] | None = None) -> None:
        """Start with no trial seen."""
        self._problem = problem
        self._incumbent = partial(best, problem=problem) if incumbent is None else incumbent
        self._seen = 0
        self._best: Trial | None = None
        self._words = ""
        self._failed = 0
        self._seconds = 0.0

    def text(self, trials: Sequence[Trial], busy: int = 0, workers: int = 0) -> str:
        """Return the note.

        Args:
            trials: All trials so far, in number order; they only ever become more.
            busy: Number of workers that evaluate something.
            workers: Number of workers.
        """
        for trial in trials[self._seen :]:
            chosen = self._incumbent([trial] if self._best is None else [self._best, trial])
            if chosen is not None and chosen is not self._best:
                self._best, self._words = chosen, self._describe(chosen)
            self._failed += trial.state == "failed"
            self._seconds += trial.seconds
        self._seen = len(trials)
        parts = [self._words] if self._words else []
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._seconds:
            parts.append(f"{duration(self._seconds)} of trials")
        if busy:
            parts.append(f"{busy}/{workers} workers busy")
        return ", ".join(parts)

    def _describe(self, trial: Trial) -> str:
        problem = self._problem
        names = dict.fromkeys([*(objective.metric for objective in problem.objectives), *(t.metric for t in problem.targets)])
        values = {**problem.space.costs(trial.proposal.candidate), **trial.metrics}
        words = " ".join(f"{name} {metric_value(name, values[name])}" for name in names if name in values)
        return f"best {words}" + (" (target not met yet)" if violation(trial, problem) > 0.0 else "")
