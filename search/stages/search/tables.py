"""Tables that algorithms and evaluators of a search may read: importance, samples, Omega and divergence."""

from __future__ import annotations

from typing import Any

import numpy as np

from search.stages.search.level_tables import LevelTables
from spaces.base import SearchSpace


def search_tables(
    levels: LevelTables, criterion: str, omega: dict[str, Any] | None, divergence: bool, dry: bool, order: bool = False
) -> dict[str, Any]:
    """Return the tables of a search.

    They are ``samples`` of the search split; ``accumulated``, the metrics that are no mean over samples; ``importance``, where
    channels leave; ``omega``, where given; and, where wanted, ``divergence``: that of every level alone, by decision; and
    ``removal_order``, of a space with parts that leave whole.

    Args:
        levels: Tables of the levels.
        criterion: The criterion of importance.
        omega: The table of Omega, None without one.
        divergence: Whether an algorithm or a baseline reads what single levels cost in outputs.
        dry: For a check: what takes long is not measured.
        order: Whether a baseline reads in which order a greedy removal takes parts of the network.
    """
    found: dict[str, Any] = {"samples": {"search": np.array(levels.task.size("search"))}}
    if meters := levels.task.meters():
        found["accumulated"] = {name: np.array(True) for name in meters}
    if scores := levels.importance(criterion, dry):
        found["importance"] = scores
    if omega is not None:
        found["omega"] = omega
    if divergence and not has_omega_of_all(levels.space, omega):
        found["divergence"] = levels.divergence(levels.space.leveled(scores), dry)
    if order and levels.space.removable:
        found["removal_order"] = levels.removal_order(levels.space.leveled(scores), dry)
    return found


def has_omega_of_all(space: SearchSpace[Any], omega: dict[str, Any] | None) -> bool:
    """Return True if a table of Omega has every decision."""
    return omega is not None and set(space.domains) <= set(omega)
