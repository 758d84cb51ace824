"""The run folder: one driver at a time, resumed only with the same configuration, model and data."""

from __future__ import annotations

import json
import os
import platform
import sys
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evaluators.training.hardware import processor
from search.config.document import parse_value, to_yaml
from search.config.storage_url import StorageUrl
from search.output.atomic import recover_folder, write_json, write_text
from search.run.differences import differences
from search.run.folder_lock import LOCK_FILE, FolderBusyError, FolderLock
from search.run.leftovers import remove_leftovers
from spaces.errors import SecateursError

_PACKAGES = ("secateurs", "torch", "torchvision", "numpy", "optuna", "deap", "safetensors", "onnx", "onnxruntime")
FORMAT = 2
"""Version of the files of a run folder that a run goes on from; a folder without one is of version 1."""

_NO_CONTENT = (LOCK_FILE, "log.txt", "environment.json")


class RunFolderError(SecateursError):
    """The run folder belongs to another driver, or to another run."""


class RunFolder:
    """A run's folder, locked for this process until :meth:`close` or the process's end, however it ends.

    Attributes:
        path: The folder, ``runs/NAME``.
        resumed: True if the folder held a run already.

    Raises:
        RunFolderError: The path is a file, holds other files than a run's, or is locked by another process.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder, lock it, and finish a replacement of ``best/`` that was cut off."""
        self.path = path
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; expected a folder, or nothing: give the run another name")
        strange = path.is_dir() and not self.config_path.exists() and _content(path)
        if strange:
            raise RunFolderError(f"{path} holds {strange[0]!r} but no run (no config.yaml): give the run another name")
        self._made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(path)
        except FolderBusyError:
            raise RunFolderError(
                f"{path} is in use by another process; wait for its end, stop it, or give this run another name"
            ) from None
        self.resumed = self.config_path.exists()
        recover_folder(self.best)
        remove_leftovers(path)

    @property
    def config_path(self) -> Path:
        """Path of the configuration that the run was started with."""
        return self.path / "config.yaml"

    @property
    def best(self) -> Path:
        """Folder of the best network so far."""
        return self.path / "best"

    @property
    def checkpoints(self) -> Path:
        """Folder of the stages' files, one folder per stage."""
        return self.path / "checkpoints"

    def adopt(self, config: dict[str, Any], task_fingerprint: str) -> list[str]:
        """Record configuration, model and data of a new run, or check that a resumed run has the same.

        Args:
            config: The configuration as plain data.
            task_fingerprint: Hash of model and data.

        Returns:
            The differences that are allowed, in words.

        Raises:
            RunFolderError: Configuration, model or data differ; the message names the field.
        """
        environment_path = self.path / "environment.json"
        if not self.resumed:
            made = {"format": FORMAT, "task_fingerprint": task_fingerprint, "run_id": uuid.uuid4().hex}
            write_json(environment_path, {**environment(), **made})
            write_text(self.config_path, to_yaml(config))
            return []
        recorded = json.loads(environment_path.read_text())
        if recorded.get("format") != FORMAT:
            raise RunFolderError(
                f"{self.path} was made by an earlier version, whose configurations said 'yardsticks' for what is now "
                "'baselines' (and 'baseline' for what is now 'reference'). Its network and its report can still be read, but "
                "it can't be gone on with: give this run another name"
            )
        before, after = parse_value(self.config_path.read_text()), parse_value(to_yaml(config))
        found = list(differences(_without_password(before), _without_password(after)))
        refused = [difference for difference in found if not difference.allowed]
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise RunFolderError(
                f"{self.path} holds another run: {refused[0]}{more}. Only execution.* may differ, and a search's "
                "budgets may grow: give the run another name, or give the old value back"
            )
        if recorded["task_fingerprint"] != task_fingerprint:
            raise RunFolderError(
                f"{self.path} was made with another model or other data: task (the content of task.data, "
                f"task.model.checkpoint or the model) had fingerprint {recorded['task_fingerprint']} and now has "
                f"{task_fingerprint}: give the run another name"
            )
        now = environment()
        changed = [
            f"{name} was {recorded.get('versions', {}).get(name)} and is now {value}"
            for name, value in now["versions"].items()
            if recorded.get("versions", {}).get(name) != value
        ]
        if found:
            write_text(self.config_path, to_yaml(config))
        return [*map(str, found), *changed]

    @property
    def run_id(self) -> str:
        """Random identity of the run, hexadecimal, made by :meth:`adopt`; differs between runs of the same name."""
        return str(json.loads((self.path / "environment.json").read_text())["run_id"])

    def discard(self) -> None:
        """Remove the folder if this object made it and nothing of a run is in it."""
        self.close()
        if self._made and not self.config_path.exists() and not _content(self.path):
            for name in _NO_CONTENT:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        """Return the locked folder."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Release the lock; after an error, remove a folder with nothing of a run in it."""
        if error is not None:
            self.discard()
        self.close()


def environment() -> dict[str, Any]:
    """Return versions of Python and packages, system, processor and number of CPUs of this machine."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "python": sys.version.split()[0],
        "versions": versions,
        "system": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
    }


def _without_password(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the storage URL stripped of its password, which alone may change between resumes."""
    storage = config.get("storage")
    return config if storage is None else {**config, "storage": StorageUrl(storage).identity}


def _content(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name not in _NO_CONTENT)
