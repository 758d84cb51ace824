"""Steps of a run on disk: the network and the notes of each, and the key that tells a stale step."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from evaluators.task import Task
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.moments import TrainingMoments
from search.output.log_records import PACKAGE
from search.run.network import Network, restore
from search.run.record_file import RecordFile, Tell, checked, read_checked
from spaces.errors import SecateursError, first_line
from spaces.files.reading import DamagedFileError, opened
from spaces.files.tensor_file import unpack_tensors

NETWORK = "network.safetensors"
KEY = "key.json"
START = "start"
"""Folder of the network that a run began with."""

TRAINING = "training.safetensors"
"""Checkpoint of the training that a stage consists of."""

MOMENT = "moments/"
"""Prefix of the second moments among the tensors of a step's network."""

TRIALS = "trials"
"""Folder of the trainings of a search's trials, inside the step's."""

FINALISTS = "finalists"
"""Folder of the trainings of a search's best candidates, inside the step's."""

BEGUN = "begun.safetensors"
"""Training that a search's finalists have begun, for the stage behind to go on with, inside the step's folder."""

ASYNCHRONOUS = "asynchronous"
"""Marker of a search whose trials were told as they were finished, inside the step's."""

RECONSTRUCTION = "reconstruction"
"""Folder of the reconstructions of a stage that were cut off, inside the step's."""


Key = Annotated[str, Field(min_length=1, max_length=64)]


class StepKey(TypedDict):
    """Content of ``key.json``."""

    key: Key


class MomentsData(TypedDict):
    """The second moments of the training just done, but for their tensors."""

    optimizer: Annotated[str, Field(max_length=64)]
    batch_size: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=0)]


class StepData(TypedDict):
    """Data beside the tensors of a step's network; files of earlier versions have no key and no moments."""

    transformations: list[dict[str, Any]]
    notes: dict[str, Any]
    key: NotRequired[str]
    moments: NotRequired[MomentsData | None]


@dataclass(frozen=True)
class StageStep:
    """One stage of the pipeline, for the result or for one baseline.

    Attributes:
        folder: Folder of its checkpoints, and of its network when it is done.
        key: Hash of everything its network depends on.
        tell: Takes a line about a damaged file.
    """

    folder: Path
    key: str
    tell: Tell = PACKAGE.warning

    @property
    def path(self) -> Path:
        """The file whose presence marks the step as done."""
        return self.folder / NETWORK

    def open(self) -> bool:
        """Write the key into the folder; remove files of another key, left by a configuration with a smaller budget.

        A key that is lost is made again where the step's network has it.

        Returns:
            True if the step was begun before, with this key.
        """
        file = RecordFile(self.folder / KEY, StepKey, "the key of the step is lost", self.tell)
        known = file.read()
        if known is None and self.folder.is_dir() and any(self.folder.iterdir()):
            found = self._read()
            if found is not None and found[1].get("key") == self.key:
                known = StepKey(key=self.key)
                file.write(known)
                self.tell(f"{file.path} was lost, and is made again from {NETWORK}")
            else:
                self.tell(f"{file.path} was lost, and {NETWORK} does not tell it: the step begins again")
        if known is not None and known["key"] == self.key:
            return True
        shutil.rmtree(self.folder, ignore_errors=True)
        file.write({"key": self.key})
        return False

    def standing(self) -> Literal["absent", "begun", "done", "other"]:
        """Return how far the step is, by its key alone: ``other`` for one of other settings or inputs. Nothing is changed."""
        known = RecordFile(self.folder / KEY, StepKey, "", lambda text: None).read()
        if known is None:
            return "absent"
        if known["key"] != self.key:
            return "other"
        return "done" if self.path.exists() else "begun"

    def holds(self) -> bool:
        """Return True if the step is done with this key, and its files are whole. Nothing is changed.

        Raises:
            FileError: A file is damaged, or the network is another step's; the message begins with its path.
        """
        try:
            known: str | None = read_checked(self.folder / KEY, StepKey)["key"]
        except (FileNotFoundError, NotADirectoryError):
            known = None
        if known not in (None, self.key):
            return False
        try:
            with opened(self.path) as file:
                _, data = unpack_tensors(file.read(), str(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        recorded = checked(data, StepData, str(self.path)).get("key", known)
        if known is not None and recorded != known:
            raise DamagedFileError(f"{self.path}: expected the network of the step with key {known}, got that of {recorded}")
        return recorded == self.key

    def load(self, task: Task) -> tuple[Network, dict[str, Any]] | None:
        """Return the network and the notes that the step left, or None while it is not done.

        Raises:
            SecateursError: The file is whole, and does not fit the task's network.
        """
        found = self._read()
        if found is None:
            return None
        tensors, data = found
        try:
            moments = _moments(tensors, data.get("moments"))
            network = restore(task, data["transformations"], tensors)
            return replace(network, moments=moments), data["notes"]
        except (SecateursError, RuntimeError) as error:
            raise SecateursError(
                f"{self.path} does not fit the task's network ({first_line(error)}). Was the code of the network "
                "changed since? Give the old code back, or remove the file: then the stage runs again"
            ) from error

    def _read(self) -> tuple[dict[str, Tensor], StepData] | None:
        again = "the stage runs again"
        found = FileCheckpoint(self.path, lambda text: self.tell(f"{text}: {again}")).load()
        if found is None:
            return None
        tensors, data = found
        try:
            return tensors, checked(data, StepData, str(self.path))
        except DamagedFileError as error:
            self.tell(f"{error}: {again}")
            return None

    def finish(self, network: Network, notes: Mapping[str, Any]) -> None:
        """Write network and notes into one file, whose presence marks the step as done; remove the step's checkpoints."""
        data = {"key": self.key, "transformations": list(network.transformations), "notes": dict(notes)}
        tensors, moments = network.tensors(), network.moments
        if moments is not None:
            data["moments"] = {"optimizer": moments.optimizer, "batch_size": moments.batch_size, "steps": moments.steps}
            tensors |= {f"{MOMENT}{name}": tensor.cpu().contiguous() for name, tensor in moments.values.items()}
        FileCheckpoint(self.path).save(tensors, data)
        (self.folder / TRAINING).unlink(missing_ok=True)
        for name in (TRIALS, FINALISTS, RECONSTRUCTION):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def _moments(tensors: dict[str, Tensor], data: MomentsData | None) -> TrainingMoments | None:
    """Take the moments out of ``tensors``, and return them; None where there are none."""
    if data is None:
        return None
    found = {name: tensors.pop(name) for name in [name for name in tensors if name.startswith(MOMENT)]}
    values = {name.removeprefix(MOMENT): tensor for name, tensor in found.items()}
    return TrainingMoments(data["optimizer"], data["batch_size"], data["steps"], values)


def key_of(*parts: Any) -> str:
    """Return a hash of plain data, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def start_key(seed: int, task_fingerprint: str) -> str:
    """Return the key of the step that a run begins with: hash of the seed, model and data."""
    return key_of(seed, task_fingerprint)
