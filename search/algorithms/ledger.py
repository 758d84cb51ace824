"""The ledger of an algorithm that measures in rungs: what is wanted, what was proposed and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from search.study.trial import Proposal, Trial

Key = tuple[str, float]
"""Fingerprint of a candidate, and the fidelity it is measured at."""


class Ledger:
    """Proposals of the open rung, and the results of all, by candidate and fidelity.

    Trials may also be told without having been asked for, as when a study is replayed.

    Args:
        evaluations: Most trials to propose in all; None without limit.

    Attributes:
        results: Every trial told.
        queue: What is wanted and not proposed yet, in order.
        waiting: What of the open rung is not told yet.
    """

    def __init__(self, evaluations: int | None) -> None:
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
        """Whether as many trials as there may be are told."""
        return self._evaluations is not None and len(self.results) >= self._evaluations

    def open(self, wanted: Mapping[Key, Proposal]) -> None:
        """Open a rung: what of ``wanted`` is not known already is proposed, and waited for."""
        self.queue = {key: proposal for key, proposal in wanted.items() if key not in self.results}
        self.waiting = set(self.queue)

    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals of the open rung, and no more than there may be in all."""
        if self._evaluations is not None:
            limit = min(limit, self._evaluations - len(self._begun))
        taken = list(self.queue)[: max(limit, 0)]
        self._begun.update(taken)
        return [self.queue.pop(key) for key in taken]

    def tell(self, trial: Trial) -> None:
        """Enter a finished trial; the first result of a candidate at a fidelity counts."""
        key = (trial.proposal.candidate.fingerprint, trial.proposal.fidelity)
        self.results.setdefault(key, trial)
        self._begun.add(key)
        self.queue.pop(key, None)
        self.waiting.discard(key)
