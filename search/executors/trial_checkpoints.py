"""Keep the trainings of trials: while they go on, and afterwards as long as another trial may start from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluators.training.checkpoint import Checkpoint, FileCheckpoint, unpack_checkpoint
from search.output.log_records import PACKAGE
from search.run.record_file import Tell
from search.study.trial import Proposal, Trial
from spaces.errors import SecateursError

_KEPT = "trial-"


class MissingStateError(SecateursError):
    """End state that a trial is to start from, and that is missing."""


@dataclass(frozen=True)
class EndState:
    """Final state of a trial's training, for a trial that starts from it.

    Attributes:
        fingerprint: Fingerprint of the trial's candidate.
        content: The last checkpoint, packed as :func:`evaluators.training.checkpoint.pack_checkpoint` makes it.
    """

    fingerprint: str
    content: bytes


@dataclass(frozen=True)
class TrialCheckpoints:
    """One file for every trial that is under way, named after its proposal, wherever it is evaluated.

    The file of a recorded trial is its *end state*, and has the trial's number in its name. Workers send what they save, so
    that all of it lies with the driver.

    Attributes:
        folder: Where the files are; made when the first is written.
        tell: Takes a line about a damaged file.
        remake: Trains a recorded trial again, so that its end state is there; None where nothing can.
    """

    folder: Path
    tell: Tell = PACKAGE.warning
    remake: Callable[[int], None] | None = None

    def of(self, proposal: Proposal) -> FileCheckpoint:
        """Return the checkpoint of a proposal that is not recorded yet; a damaged one is told, and trained anew."""
        start = "" if proposal.warm_start is None else f"-{proposal.warm_start}"
        name = f"{proposal.candidate.fingerprint}-{proposal.fidelity:g}{start}.safetensors"
        return FileCheckpoint(self.folder / name, self._again)

    def start(self, proposal: Proposal) -> EndState | None:
        """Return the end state that a proposal starts from, None where it names none or has begun already.

        Raises:
            MissingStateError: It is not there, and can't be made again.
        """
        number = proposal.warm_start
        if number is None or self.of(proposal).packed() is not None:
            return None
        found = self._end_state(number)
        if found is None and self.remake is not None:
            self.tell(f"{self.folder} has no end state of trial {number}: the trial is trained again")
            self.remake(number)
            found = self._end_state(number)
        if found is None:
            raise MissingStateError(
                f"a trial is to start from the end state of trial {number}, and {self.folder} has none of it: "
                "expected the file that the search left there; were files removed? Start the search again under another name"
            )
        return found

    def end(self, number: int) -> FileCheckpoint | None:
        """Return the end state of a recorded trial, None where none is kept; a damaged one is told, and trained anew."""
        path = self._kept(number)
        return None if path is None else FileCheckpoint(path, self._again)

    def end_of(self, trial: Trial) -> FileCheckpoint:
        """Return the place of a recorded trial's end state."""
        name = f"{_KEPT}{trial.number}-{trial.proposal.candidate.fingerprint}.safetensors"
        return FileCheckpoint(self.folder / name, self._again)

    def keep(self, trial: Trial) -> None:
        """Turn the checkpoint of a recorded trial into its end state; of a failed one nothing is kept.

        A checkpoint beside the end state is that of a later trial of the same proposal, which was cut off.
        """
        path = self.of(trial.proposal).path
        if not path.exists() or self._kept(trial.number) is not None:
            return
        if trial.state == "failed":
            path.unlink()
        else:
            path.replace(self.end_of(trial).path)

    def retain(self, needed: Collection[int], below: int) -> None:
        """Remove the end states of all trials with numbers below ``below``, except those that are ``needed``."""
        for path in self.folder.glob(f"{_KEPT}*-*.safetensors"):
            number = int(path.name.removeprefix(_KEPT).partition("-")[0])
            if number < below and number not in needed:
                path.unlink()

    def close(self) -> None:
        """Remove all files, when the search's result is kept elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _again(self, text: str) -> None:
        self.tell(f"{text}: it is trained from its start")

    def _end_state(self, number: int) -> EndState | None:
        found = self.end(number)
        content = None if found is None else found.packed()
        return None if found is None or content is None else EndState(found.path.stem.rpartition("-")[2], content)

    def _kept(self, number: int) -> Path | None:
        return next(self.folder.glob(f"{_KEPT}{number}-*.safetensors"), None)


class Continued:
    """Checkpoint of a training that goes on from the end of another trial of the same candidate.

    Args:
        checkpoint: The training's own checkpoint; None to keep nothing.
        start: End state of the other trial, used while the own checkpoint is empty.
    """

    def __init__(self, checkpoint: Checkpoint | None, start: EndState) -> None:
        self._checkpoint = checkpoint
        self._start = start

    @property
    def on_disk(self) -> bool:
        """True if the training's own checkpoint is a file of this process."""
        return self._checkpoint is not None and self._checkpoint.on_disk

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the last state saved, or the other trial's."""
        own = self._checkpoint.load() if self._checkpoint is not None else None
        return unpack_checkpoint(self._start.content) if own is None else own

    def save(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Save to the training's own checkpoint."""
        if self._checkpoint is not None:
            self._checkpoint.save(tensors, data)

    def settle(self) -> None:
        """Save the start as the end where the training had no epoch to add: two rungs may round up to the same epoch."""
        if self._checkpoint is not None and self._checkpoint.load() is None:
            self._checkpoint.save(*unpack_checkpoint(self._start.content))
