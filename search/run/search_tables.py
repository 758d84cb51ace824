"""Tables of a finished search that another run over the same network takes over, instead of making them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.run.record_file import Tell
from search.run.stage_run import RESULT
from search.run.steps import StageStep
from spaces.files.atomic import replace_file

TABLES = ("importance.json", "divergence.json", "sensitivity.json", "removal_order.json")
"""Tables that a search leaves in its folder, which say nothing of its target."""

LATENCY = "latency.json"
"""Table of latencies, for all variants of a search."""


class SearchTables:
    """Tables of a search, in the folders of finished runs.

    Args:
        sources: Run folders; a table comes from the first that has it.
        step: Place and name of the search in all of them, such as ``2-search``.

    Attributes:
        step: As given.
    """

    def __init__(self, sources: Sequence[Path], step: str) -> None:
        """Keep the places; nothing is read yet."""
        self.step = step
        self._folders = [folder / "checkpoints" / step for folder in sources]

    def fill(self, step: StageStep, variant: str, tell: Tell) -> None:
        """Copy the tables of the search's result, which are those of every variant, into the folder of a step.

        Args:
            step: The search in the run that takes over, opened and not done.
            variant: ``result``, or the baseline.
            tell: Takes a line about a table that is missing, and is made again.
        """
        found = {name for name in TABLES if self._copy(Path(RESULT, name), step.folder / name)}
        self._copy(Path(LATENCY), step.folder.parent / LATENCY)
        if variant == RESULT and not found & {"divergence.json", "sensitivity.json"}:
            tell(f"{self._folders[0] / RESULT / 'divergence.json'} is missing: it is measured now")

    def _copy(self, place: Path, target: Path) -> bool:
        """Copy the first table at a place that is there, and return whether there is one."""
        source = next((path for folder in self._folders if (path := folder / place).is_file()), None)
        if source is not None and not target.exists():
            replace_file(target, source.read_bytes())
        return source is not None
