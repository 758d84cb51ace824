"""The algorithm: what to try next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from search.study.trial import Proposal, Trial


class Algorithm(ABC):
    """Chooses what to try next from what has been measured so far.

    Made as ``Algorithm(problem, settings, seed)`` with the frozen dataclass ``Settings`` of its class. Trains nothing,
    starts no process and opens no file. Deterministic in these and in the trials told, which come in number order.
    Asking once for two proposals equals asking twice for one.
    """

    @abstractmethod
    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals that can be evaluated now, in parallel.

        An empty list means "tell me more first", as at the end of a generation; :attr:`finished` says that all is done.
        """

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Take in a finished trial; called once per proposal, in number order."""

    @property
    def warm_starts(self) -> Collection[int]:
        """Numbers of the trials told from whose end state a later proposal may start; the others' are not kept.

        A number that is not among them any more never comes back.
        """
        return ()

    @property
    def notes(self) -> Mapping[str, Any]:
        """What the report tells of the search beside its trials, as JSON data."""
        return {}

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing more will be asked for."""

    @property
    @abstractmethod
    def budget(self) -> int | None:
        """Number of trials that there will be at the most, for the ETA; None where unknown."""
