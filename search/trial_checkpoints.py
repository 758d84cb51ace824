"""Where the trainings of trials are kept until the trials are recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evaluators.training.checkpoint import FileCheckpoint
from search.trial import Proposal


@dataclass(frozen=True)
class TrialCheckpoints:
    """One file for every trial that is under way, named after what is proposed, wherever it is evaluated.

    Attributes:
        folder: Where the files are; made when the first is written.
    """

    folder: Path

    def of(self, proposal: Proposal) -> FileCheckpoint:
        """Return the checkpoint of a proposal."""
        return FileCheckpoint(self.folder / f"{proposal.candidate.fingerprint}-{proposal.fidelity:g}.safetensors")

    def discard(self, proposals: Iterable[Proposal]) -> None:
        """Remove the checkpoints of recorded trials."""
        for proposal in proposals if self.folder.exists() else ():
            self.of(proposal).path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what is left when the search is over."""
        shutil.rmtree(self.folder, ignore_errors=True)
