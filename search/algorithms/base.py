"""The interface of algorithms: propose candidates, take in their trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from search.study.pareto import best, ranked
from search.study.problem import Problem
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace

S = TypeVar("S")


class Algorithm(ABC, Generic[S]):
    """A search method that proposes candidates from the trials measured so far.

    It trains nothing, starts no process and opens no file. It is deterministic in the arguments of its constructor and in the
    trials told, which come in number order. Asking once for two proposals equals asking twice for one.
    :mod:`search.algorithms.testing` checks these promises for any algorithm.

    Args:
        problem: Space, objectives, targets and tables.
        settings: Options of the algorithm.
        seed: Seed of all its random draws.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give, with a default for each.
        measures_solved: Whether its trials come from steps, one at a time, which measure solved layers, so that the best so far
            is kept with them.
        closing: Largest number of trials that :meth:`conclude` leaves to ask for, which a budget of evaluations keeps free.

    Raises:
        SecateursError: The algorithm cannot search this problem.
    """

    Settings: ClassVar[type[Any]]
    measures_solved: ClassVar[bool] = False
    closing: ClassVar[int] = 0

    def __init__(self, problem: Problem, settings: S, seed: int) -> None:
        """Keep problem, settings and seed."""
        self._problem = problem
        self._settings = settings
        self._seed = seed

    @classmethod
    def fewest_evaluations(cls, settings: S, trains: bool) -> tuple[int, str]:
        """Return the fewest evaluations of a useful search, and their use in words for an error message.

        Args:
            settings: Options of the algorithm.
            trains: Whether candidates are trained.
        """
        return 1, "one candidate"

    @classmethod
    def random_control(cls, settings: S, space: SearchSpace[Any], evaluations: int) -> tuple[str, Mapping[str, Any]]:
        """Return (registered name, options) of the random search to compare with this algorithm at equal cost.

        Args:
            settings: Options of the algorithm.
            space: The space that is searched.
            evaluations: Number of trials of the algorithm.
        """
        if space.levels is not None or any(domain.channels for domain in space.domains.values()):
            return "random", {"evaluations": evaluations}
        return "optuna", {"evaluations": evaluations, "sampler": "random"}

    @classmethod
    def reads_divergence(cls, settings: S) -> bool:
        """Return True if the table ``divergence`` is read, that of every level alone, which takes long to measure.

        Args:
            settings: Options of the algorithm.
        """
        return False

    @abstractmethod
    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals that can be evaluated now, in parallel.

        An empty list means that trials must be told first, as at the end of a generation; once :attr:`finished` is true,
        there are no more proposals. Proposals with a :class:`.Step` are told, but not recorded, and come alone; what they
        come to is a proposal of its own, which carries its metrics and is recorded as they are.
        """

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Record a finished trial; called once per trial, in number order, also for recorded trials that were not asked for.

        Trials of proposals with a step have the numbers of the trials to come, and are told once all that were asked for at
        a time are finished, in the order of asking; a resumed search tells recorded trials alone.
        """

    def incumbent(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the trial to deliver, by default that of :func:`.best`; None where none counts.

        Args:
            trials: Recorded trials, in number order: all of them, or the last incumbent and those behind it.
        """
        return best(trials, self._problem)

    def preferred(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials that finalists of one objective are taken from, the best first: by default by :func:`.ranked`."""
        return ranked(trials, self._problem)

    def conclude(self) -> None:
        """Bring the search to its end, since a budget is spent: ask for no more than :attr:`closing` trials from now on.

        Proposals that were asked for before may be told or not. Nothing by default, for a search that may end anywhere.
        """

    @property
    def warm_starts(self) -> Collection[int]:
        """Numbers of told trials whose end state a later proposal may start from; end states of the others are deleted.

        A number that has left the collection never returns.
        """
        return ()

    @property
    def notes(self) -> Mapping[str, Any]:
        """JSON data for the report, beside the trials."""
        return {}

    @property
    @abstractmethod
    def finished(self) -> bool:
        """True if there are no more proposals, whatever is told."""

    @property
    def passes_per_trial(self) -> float:
        """Measurements of a candidate that a trial comes to: more than 1 where a trial compares several."""
        return 1.0

    @property
    def budget(self) -> int | None:
        """Largest possible number of trials, for the estimated time of arrival; None if unknown."""
        return None
