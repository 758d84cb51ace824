"""Steps of a run on disk: the network and the notes of each, and the key that tells a stale step."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.task import Task
from evaluators.training.checkpoint import FileCheckpoint
from search.output.atomic import write_json
from search.run.network import Network, restore

_NETWORK = "network.safetensors"
_KEY = "key.json"
_TRAINING = "training.safetensors"
TRIALS = "trials"
"""Folder of the trainings of a search's trials, inside the step's."""

FINALISTS = "finalists"
"""Folder of the trainings of a search's best candidates, inside the step's."""


@dataclass(frozen=True)
class StageStep:
    """One stage of the pipeline, for the result or for one baseline.

    Attributes:
        folder: Folder of its checkpoints, and of its network when it is done.
        key: Hash of everything its network depends on.
    """

    folder: Path
    key: str

    def open(self) -> None:
        """Write the key into the folder; remove files of another key, left by a configuration with a smaller budget."""
        path = self.folder / _KEY
        known = json.loads(path.read_text())["key"] if path.exists() else None
        if known == self.key:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        write_json(path, {"key": self.key})

    def load(self, task: Task) -> tuple[Network, dict[str, Any]] | None:
        """Return the network and the notes that the step left, or None while it is not done."""
        found = FileCheckpoint(self.folder / _NETWORK).load()
        if found is None:
            return None
        tensors, data = found
        return restore(task, data["transformations"], tensors), data["notes"]

    def finish(self, network: Network, notes: Mapping[str, Any]) -> None:
        """Write network and notes into one file, whose presence marks the step as done; remove the step's checkpoints."""
        data = {"transformations": list(network.transformations), "notes": dict(notes)}
        FileCheckpoint(self.folder / _NETWORK).save(network.tensors(), data)
        (self.folder / _TRAINING).unlink(missing_ok=True)
        for name in (TRIALS, FINALISTS):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def key_of(*parts: Any) -> str:
    """Return a hash of plain data, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
