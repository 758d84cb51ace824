"""Report of a pass over connected activations: merges, and activations left apart with the reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Merge:
    """Connected activations that became one.

    Attributes:
        where: Module, graph or function of the activations.
        nodes: Their names, in the order of application.
        activations: The replaced activations, with slopes or bounds.
        result: The merged activation.
        exact: Whether no slopes were multiplied, so that outputs are equal to the last bit.
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
    """Activations left unchanged.

    Attributes:
        where: Module, graph or function of the activations.
        nodes: Their names.
        reason: The reason against a merge.
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
    """Merges of a pass, and activations left unchanged.

    Attributes:
        merges: Activations that became one, in graph order.
        left: Connected activations that stayed apart and unreadable activations, each with the reason.
    """

    merges: tuple[Merge, ...]
    left: tuple[Left, ...]

    @property
    def removed(self) -> int:
        """Number of activations removed, identities not counted."""
        kept = sum(merge.result != "Identity" for merge in self.merges)
        return sum(words != "Identity" for merge in self.merges for words in merge.activations) - kept

    @property
    def exact(self) -> bool:
        """True if no merge multiplied slopes."""
        return all(merge.exact for merge in self.merges)

    def lines(self) -> list[str]:
        """Return the report for a log, one line per entry."""
        return [merge.text for merge in self.merges] + [left.text for left in self.left]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {"merges": [asdict(merge) for merge in self.merges], "left": [asdict(left) for left in self.left]}
