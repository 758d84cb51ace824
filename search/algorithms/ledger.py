"""Proposals and results of an algorithm that measures candidates in rungs of rising fidelity."""

from __future__ import annotations

from collections.abc import Mapping

from search.study.trial import Proposal, Trial

Key = tuple[str, float]
"""Fingerprint of a candidate and fidelity of its measurement."""


class Ledger:
    """Proposals of the open rung and results of all rungs, by candidate and fidelity.

    Trials may be told without having been asked for, as when a study is replayed.

    Args:
        evaluations: Largest number of trials to propose in all; None for no limit.

    Attributes:
        results: The trials told.
        queue: Proposals of the open rung not returned by :meth:`ask` yet, in order.
        waiting: Keys of the open rung not told yet.
    """

    def __init__(self, evaluations: int | None) -> None:
        """Start without proposals."""
        self._evaluations = evaluations
        self._begun: set[Key] = set()
        self.results: dict[Key, Trial] = {}
        self.queue: dict[Key, Proposal] = {}
        self.waiting: set[Key] = set()

    @property
    def begun(self) -> int:
        """Number of trials proposed or told."""
        return len(self._begun)

    @property
    def spent(self) -> bool:
        """True if ``evaluations`` trials have been told."""
        return self._evaluations is not None and len(self.results) >= self._evaluations

    def open(self, wanted: Mapping[Key, Proposal]) -> None:
        """Open a rung with those of the ``wanted`` proposals that have no result yet."""
        self.queue = {key: proposal for key, proposal in wanted.items() if key not in self.results}
        self.waiting = set(self.queue)

    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals of the open rung, within ``evaluations`` in all."""
        if self._evaluations is not None:
            limit = min(limit, self._evaluations - len(self._begun))
        taken = list(self.queue)[: max(limit, 0)]
        self._begun.update(taken)
        return [self.queue.pop(key) for key in taken]

    def tell(self, trial: Trial) -> None:
        """Record a finished trial; of several results of a candidate at one fidelity the first counts."""
        key = (trial.proposal.candidate.fingerprint, trial.proposal.fidelity)
        self.results.setdefault(key, trial)
        self._begun.add(key)
        self.queue.pop(key, None)
        self.waiting.discard(key)
