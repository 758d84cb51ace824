"""Interface of several processes that train a network together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

from spaces.errors import SecateursError

if TYPE_CHECKING:
    from evaluators.training.checkpoint import FileCheckpoint

PREPARE_SECONDS = 600.0
"""Seconds in which all processes must have loaded network and data."""


class LostGroupError(SecateursError):
    """Training whose processes were lost more often than they may be."""


class PackedWork(Protocol):
    """Work on its way to the processes that carry it out together."""

    def __call__(self) -> Any:
        """Return the work, in a process of its own."""

    def allows(self, ranks: int) -> bool:
        """Return True if so many processes train the same network."""


class TrainingGroup(ABC):
    """Several processes that train a network together."""

    @abstractmethod
    def train(
        self,
        factory: PackedWork,
        checkpoint: FileCheckpoint,
        on_epoch: Callable[[Any], None] = lambda record: None,
        order: Any = None,
    ) -> Any:
        """Return what the first process returns.

        Args:
            factory: Made in every process, once for several calls with the same one: takes ``order``, a checkpoint, the place
                among the ranks and ``on_epoch``, and trains.
            checkpoint: Place of the training so far; what the first process saves is written there.
            on_epoch: Called with the record of every new epoch.
            order: What to do, where one factory serves several things.

        Raises:
            SecateursError: The training can't be carried out as configured.
        """

    def close(self) -> None:
        """End the processes."""

    def __enter__(self) -> Self:
        """Return the group."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self.close()
