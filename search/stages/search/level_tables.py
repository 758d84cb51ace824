"""Tables of levels that a search reads: the order in which channels leave, and the divergence of each level alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import TypedDict

from evaluators.reference_outputs import ReferenceOutputs
from evaluators.task import Task
from evaluators.tasks.observations import observations
from search.run.record_file import RecordFile
from search.stages.search.space import CALIBRATION_SAMPLES
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.errors import SecateursError
from spaces.importance import criterion as importance
from spaces.levels.levels import Levels

ORDER_FILE, DIVERGENCE_FILE, REMOVAL_FILE = "importance.json", "divergence.json", "removal_order.json"
BATCH = 256
"""Samples per forward pass."""


class TableFile(TypedDict):
    """Content of either file: a number per channel or level, by decision, and what the numbers were made with."""

    made_with: dict[str, Any]
    table: dict[str, list[float]]


@dataclass(frozen=True)
class LevelTables:
    """Tables of the levels of one search's network, kept in files where there is a folder.

    Attributes:
        space: The space.
        model: The network that enters the search.
        task: Data and forward pass; labels are read by criteria of importance that need them alone.
        device: Where the network runs.
        folder: Folder of the files; None keeps none.
        log: Takes a line about what is being measured.
        warn: Takes a line about a damaged file.
    """

    space: SearchSpace[Any]
    model: nn.Module
    task: Task
    device: torch.device
    folder: Path | None
    log: Callable[[str], None]
    warn: Callable[[str], None]

    def importance(self, criterion: str, dry: bool = False) -> dict[str, np.ndarray]:
        """Return the importance of every channel, float64 of shape ``(channels,)`` by group; none without keep-masks.

        Args:
            criterion: A name in :data:`~spaces.importance.criterion.CRITERIA`.
            dry: For a check: an order that takes long to learn is that of the filters' norms instead.
        """
        groups = self.space.channels
        if groups is None or not any(domain.channels for domain in self.space.domains.values()):
            return {}
        if not importance.find_criterion(criterion).few_samples:
            seen = observations(self.task, self.device, limit=CALIBRATION_SAMPLES)
            return importance.score(self.model, groups, criterion, seen)
        if dry:
            return importance.score(self.model, groups, "l2")
        images = self.space.level_settings.images
        file, made_with = self._file(ORDER_FILE), {"criterion": criterion, "images": images}
        table = _known(file, made_with)
        if {name: len(values) for name, values in table.items()} != {group.name: group.size for group in groups.groups}:
            self.log(f"learning the order in which channels leave ({criterion})")
            seen = observations(self.task, self.device, limit=images)
            found = importance.score(self.model, groups, criterion, seen)
            table = {name: values.tolist() for name, values in found.items()}
            _keep(file, made_with, table)
        return {name: np.asarray(values, dtype=np.float64) for name, values in table.items()}

    def divergence(self, levels: Levels, dry: bool = False) -> dict[str, list[float]]:
        """Return the divergence of every level with all other decisions at their costliest, by decision, cheapest first.

        Measured are the outputs against those of the network at its costliest levels, on training samples without labels; a
        network is built as the space realizes it, and no statistics are measured again. Kept after every decision.

        Args:
            levels: Levels of every decision.
            dry: For a check: nothing is measured, and all are 0.

        Raises:
            SecateursError: The space trains its candidates.
        """
        if dry:
            return {name: [0.0] * len(values) for name, values in levels.items()}
        whole = Candidate({name: values[-1] for name, values in levels.items()})
        if self.space.sparsifier(whole) is not None:
            raise SecateursError("the divergence of levels is measured without training, and this space trains its candidates")
        images = self.space.level_settings.divergence_images
        made_with = {"images": images, "levels": {name: list(values) for name, values in levels.items()}}
        file = self._file(DIVERGENCE_FILE)
        table = _known(file, made_with)
        if set(table) != set(levels):
            self.log("measuring the divergence of every level")
            network = self._realized(whole)
            dense = ReferenceOutputs(network, self.task, "train", images, "auto", BATCH, self.device)
            places = torch.arange(len(dense))
            # A level changes what lies behind its first layer alone.
            recorded = dense.record(network, places)
            for name in levels:
                if name not in table:
                    one_changed = (whole.joined(Candidate({name: level})) for level in levels[name][:-1])
                    values = [
                        float(dense.distances(self._realized(one), places, recorded=recorded).mean()) for one in one_changed
                    ]
                    table[name] = [*values, 0.0]
                    _keep(file, made_with, table)
        return {name: table[name] for name in levels}

    def removal_order(self, levels: Levels, dry: bool = False) -> list[str]:
        """Return the parts that may leave whole in the order in which a greedy removal takes them away, one at a time.

        Each is the one whose outputs are nearest to the whole network's, beside those that are gone already, measured as
        :meth:`divergence` is; it ends where the space allows no more. Kept after every step.

        Args:
            levels: Levels of every decision.
            dry: For a check: the order of the space's gains.
        """
        whole = Candidate({name: values[-1] for name, values in levels.items()})
        parts = [part.name for part in self.space.removable]
        if dry:
            gains = self.space.gains()
            return self._allowed(whole, levels, sorted(parts, key=lambda name: float(gains[name][-1])))
        images = self.space.level_settings.divergence_images
        made_with = {"images": images, "levels": {name: list(values) for name, values in levels.items()}}
        file = self._file(REMOVAL_FILE)
        table = _known(file, made_with)
        order = sorted(table, key=lambda name: table[name][0])
        here = whole.joined(Candidate({name: levels[name][0] for name in order}))
        dense: ReferenceOutputs | None = None
        while left := self._allowed(here, levels, [name for name in parts if name not in order], first=True):
            if dense is None:
                self.log("measuring which branch or block to remove next, one at a time")
                dense = ReferenceOutputs(self._realized(whole), self.task, "train", images, "auto", BATCH, self.device)
            places = torch.arange(len(dense))
            found = {}
            for name in left:
                without = self._realized(here.joined(Candidate({name: levels[name][0]})))
                found[name] = float(dense.distances(without, places).mean())
            best = min(found, key=lambda name: found[name])
            table[best] = [float(len(order)), found[best]]
            _keep(file, made_with, table)
            order.append(best)
            here = here.joined(Candidate({best: levels[best][0]}))
        return order

    def _allowed(self, here: Candidate, levels: Levels, names: list[str], first: bool = False) -> list[str]:
        """Return those of ``names`` that may go, each behind the others; with ``first`` each alone, beside what is gone."""
        found: list[str] = []
        for name in names:
            candidate = here.joined(Candidate({name: levels[name][0]}))
            if self.space.excess(candidate) == 0.0:
                found.append(name)
                here = here if first else candidate
        return found

    def _realized(self, candidate: Candidate) -> nn.Module:
        return self.space.realize(self.model, candidate).to(self.device).eval()

    def _file(self, name: str) -> RecordFile[TableFile] | None:
        if self.folder is None:
            return None
        return RecordFile(self.folder / name, TableFile, "the table is made again", self.warn)


def _known(file: RecordFile[TableFile] | None, made_with: dict[str, Any]) -> dict[str, list[float]]:
    """Return the table of a file that was made with the same; {} for another, and where there is none."""
    found = None if file is None else file.read()
    return dict(found["table"]) if found is not None and found["made_with"] == made_with else {}


def _keep(file: RecordFile[TableFile] | None, made_with: dict[str, Any], table: dict[str, list[float]]) -> None:
    if file is not None:
        file.write({"made_with": made_with, "table": table})
