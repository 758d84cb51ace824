"""What a pass over connected activations did and what it left, as a person reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Merge:
    """Connected activations that became one.

    Attributes:
        where: The module, graph or function they stand in.
        nodes: Their names, in the order in which they are applied.
        activations: What they were, with their slopes or bounds.
        result: What they are now.
        exact: Whether no slopes were multiplied, so that answers are equal to the last bit.
    """

    where: str
    nodes: tuple[str, ...]
    activations: tuple[str, ...]
    result: str
    exact: bool

    @property
    def text(self) -> str:
        """One line for a log."""
        chain = ", ".join(f"{name} ({words})" for name, words in zip(self.nodes, self.activations, strict=True))
        return f"{self.where}: {chain} -> {self.result}"


@dataclass(frozen=True)
class Left:
    """Activations that were left as they are.

    Attributes:
        where: The module, graph or function they stand in.
        nodes: Their names.
        reason: Why.
    """

    where: str
    nodes: tuple[str, ...]
    reason: str

    @property
    def text(self) -> str:
        """One line for a log."""
        return f"{self.where}: {', '.join(self.nodes)} left as they are: {self.reason}"


@dataclass(frozen=True)
class FusionReport:
    """What a pass did.

    Attributes:
        merges: Activations that became one, in graph order.
        left: Connected activations that stayed apart and activations that can't be read, each with the reason.
    """

    merges: tuple[Merge, ...]
    left: tuple[Left, ...]

    @property
    def removed(self) -> int:
        """How many activations there are less, identities not counted."""
        kept = sum(merge.result != "Identity" for merge in self.merges)
        return sum(words != "Identity" for merge in self.merges for words in merge.activations) - kept

    @property
    def exact(self) -> bool:
        """Whether no merge multiplied slopes."""
        return all(merge.exact for merge in self.merges)

    def lines(self) -> list[str]:
        """Return the report for a log, one line on each entry."""
        return [merge.text for merge in self.merges] + [left.text for left in self.left]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {"merges": [asdict(merge) for merge in self.merges], "left": [asdict(left) for left in self.left]}
