"""Storage of a run's studies, as a search records its trials in it: Optuna's interface, and three methods more."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

Answer = TypeVar("Answer")


class RunStorage(BaseStorage):
    """Optuna's storage for the one driver of a run."""

    @abstractmethod
    def claim(self, study: Study) -> None:
        """Make a study this run's own.

        Raises:
            StorageError: It is another run's.
        """

    @abstractmethod
    def record(self, study: Study, trial: FrozenTrial) -> None:
        """Write a finished trial, with its ``number`` and its candidate's ``fingerprint`` among its user attributes.

        Raises:
            StorageError: The storage does not answer, or somebody else has written the study.
        """

    @abstractmethod
    def patiently(self, operation: Callable[[], Answer]) -> Answer:
        """Return the result of ``operation``, which reads or writes; try again while the storage does not answer.

        Raises:
            StorageError: It can't be waited for, or did not come back in time.
        """
