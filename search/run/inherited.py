"""Networks and tables of a finished run that another run over the same network takes over, instead of making them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluators.training.checkpoint import FileCheckpoint, unpack_checkpoint
from search.run.record_file import Tell
from search.run.stage_run import RESULT, SECONDS
from search.run.steps import NETWORK, START, StageStep
from spaces.errors import SecateursError
from spaces.files.atomic import replace_file

TABLES = ("importance.json", "divergence.json", "sensitivity.json")
"""Tables that a search leaves in its folder, which say nothing of its target."""

LATENCY = "latency.json"
"""Table of latencies, for all variants of a search."""


class InheritanceError(SecateursError):
    """A piece of a finished run that another run needs, and that is missing, damaged or of other settings."""


class Inherited:
    """Pieces of finished runs for the stages of a new run: networks of the stages before a search, and the search's tables.

    Args:
        sources: Run folders; networks come from the first, a table from the first that has it.
        step: Place and name of the search, such as ``2-search``.
    """

    def __init__(self, sources: Sequence[Path], step: str) -> None:
        """Keep the places; nothing is read yet."""
        self._checkpoints = [folder / "checkpoints" for folder in sources]
        self._step = step

    def fill(self, place: Path, step: StageStep, tell: Tell) -> None:
        """Copy what is there for a step that is not done into its folder, unless it is in it.

        Args:
            place: The step's folder below ``checkpoints``, such as ``0-train/result``.
            step: The step, opened with its key.
            tell: Takes a line about a piece that is missing, and can be made again.

        Raises:
            InheritanceError: The network of a stage before the search is missing, damaged, or was made with other settings.
        """
        number = _number(place.parts[0])
        if number < _number(self._step):
            self._copy_network(place, step)
        elif number == _number(self._step):
            self._copy_tables(place, step, tell)

    def _copy_network(self, place: Path, step: StageStep) -> None:
        path = self._checkpoints[0] / place / NETWORK
        damage: list[str] = []
        content = FileCheckpoint(path, damage.append).packed()
        if content is None:
            if place.name in (RESULT, START):
                what = damage[0] if damage else f"{path} is missing"
                raise InheritanceError(
                    f"{what}, and a search of that run can't be solved again without it: give the run's own command again "
                    "first, which makes it"
                )
            return
        key = unpack_checkpoint(content)[1].get("key")
        if key != step.key:
            raise InheritanceError(
                f"{path} was made with another model, other data or other settings (its key is {key}, expected {step.key}): "
                "give back what was changed since, or search anew"
            )
        seconds = path.with_name(SECONDS)
        if seconds.exists():
            replace_file(step.folder / SECONDS, seconds.read_bytes())
        replace_file(step.path, content)

    def _copy_tables(self, place: Path, step: StageStep, tell: Tell) -> None:
        """Copy the tables of the search's result, which are those of every variant."""
        found = {name for name in TABLES if self._copy_table(Path(self._step, RESULT, name), step.folder / name)}
        self._copy_table(Path(self._step, LATENCY), step.folder.parent / LATENCY)
        if place.name == RESULT and not found & {"divergence.json", "sensitivity.json"}:
            tell(f"{self._checkpoints[0] / self._step / RESULT / 'divergence.json'} is missing: it is measured now")

    def _copy_table(self, place: Path, target: Path) -> bool:
        """Copy the first table at a place that is there, and return whether there is one."""
        source = next((path for checkpoints in self._checkpoints if (path := checkpoints / place).is_file()), None)
        if source is not None and not target.exists():
            replace_file(target, source.read_bytes())
        return source is not None


def _number(label: str) -> int:
    """Return the place of a step in the pipeline, -1 for the network that it starts from."""
    return -1 if label == START else int(label.partition("-")[0])
