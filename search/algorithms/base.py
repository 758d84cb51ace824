"""The interface of algorithms: propose candidates, take in their trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from search.study.trial import Proposal, Trial


class Algorithm(ABC):
    """A search method that proposes candidates from the trials measured so far.

    Constructed as ``Algorithm(problem, settings, seed)`` with the frozen dataclass ``Settings`` of its class. It trains
    nothing, starts no process and opens no file. It is deterministic in these arguments and in the trials told, which come
    in number order. Asking once for two proposals equals asking twice for one.
    """

    @abstractmethod
    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals that can be evaluated now, in parallel.

        An empty list means that trials must be told first, as at the end of a generation; once :attr:`finished` is true,
        there are no more proposals.
        """

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Record a finished trial; called once per trial, in number order, also for recorded trials that were not asked for."""

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
    @abstractmethod
    def budget(self) -> int | None:
        """Largest possible number of trials, for the estimated time of arrival; None if unknown."""
