"""The two files that say which run a folder holds: config.yaml and environment.json, each made again from the other."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from evaluators.training.hardware import processor
from search.config.document import parse_value, to_yaml
from search.config.storage_url import StorageUrl
from search.run.record_file import RecordFile, Tell, checked
from search.run.steps import KEY, START, StepKey, key_of, start_key
from spaces.errors import SecateursError
from spaces.files.json_file import is_digested, mapping, read_content, undigested, unpack_record, write_record
from spaces.files.reading import DamagedFileError
from spaces.files.text_file import read_commented, write_commented

_PACKAGES = ("secateurs", "torch", "torchvision", "numpy", "optuna", "deap", "safetensors", "onnx", "onnxruntime")
FORMAT = 2
"""Version of the files of a run folder that a run goes on from; a folder without one is of version 1."""

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"


class RunFolderError(SecateursError):
    """The run folder belongs to another driver, or to another run."""


class Environment(TypedDict):
    """Content of ``environment.json``, as far as a run reads it."""

    format: int
    task_fingerprint: str
    run_id: str
    versions: NotRequired[dict[str, str | None]]
    configuration: NotRequired[str]


class RunRecords:
    """Reader and writer of the two files.

    Args:
        folder: The run folder.
        config: The configuration of the command, as plain data.
        task_fingerprint: Hash of its model and data.
        tell: Takes a line about a damaged file.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], task_fingerprint: str, tell: Tell) -> None:
        """Keep the place; nothing is read or written yet."""
        self._folder, self._config, self._fingerprint, self._tell = folder, dict(config), task_fingerprint, tell
        self._config_path, self._environment_path = folder / CONFIG, folder / ENVIRONMENT

    def begin(self) -> str:
        """Write both files of a new run, the configuration last, and return the run's identity."""
        made = self._made(self._config)
        write_record(self._environment_path, made)
        self._write_config()
        return str(made["run_id"])

    def change(self, recorded: Environment) -> None:
        """Replace the configuration by the command's, which may differ from it as far as a resumed run may."""
        self._write_config()
        write_record(self._environment_path, {**recorded, "configuration": identity(self._config)})

    def environment(self) -> Environment:
        """Return the content of ``environment.json``; made again, and told, where it is lost and other files tell the same.

        Raises:
            RunFolderError: It is lost and nothing else tells it, or of an earlier version.
        """
        name = str(self._environment_path)
        try:
            content = read_content(self._environment_path)
            found = unpack_record(content, name)
            self._require_format(found)
            environment = checked(found, Environment, name)
        except FileNotFoundError:
            return self._environment_again(f"{name} is missing")
        except DamagedFileError as error:
            return self._environment_again(str(error))
        if not is_digested(content):
            self._tell(undigested(self._environment_path))
        return environment

    def configuration(self, recorded: Environment) -> dict[str, Any]:
        """Return the configuration that the run was made with; made again, and told, where the command has the same.

        Raises:
            RunFolderError: It is lost, and the command's is another.
        """
        try:
            return read_config(self._config_path)
        except FileNotFoundError:
            reason = f"{self._config_path} is missing"
        except DamagedFileError as error:
            reason = str(error)
        if recorded.get("configuration") != identity(self._config):
            raise RunFolderError(
                f"{reason}, and this configuration is not the one that {ENVIRONMENT} has the hash of: give the run's own, with "
                f"nothing changed but execution.*, or give this run another name. {self._cost}"
            )
        self._tell(f"{reason}: it is made again, since this configuration is the one that {ENVIRONMENT} has the hash of")
        self._write_config()
        return self._config

    def _environment_again(self, reason: str) -> Environment:
        try:
            before = read_config(self._config_path)
        except (OSError, DamagedFileError) as error:
            raise RunFolderError(f"{reason}, and so is {CONFIG} ({error}): give this run another name. {self._cost}") from None
        checkpoints = self._folder / "checkpoints"
        step = RecordFile(checkpoints / START / KEY, StepKey, "it can't tell the run's model and data", self._tell).read()
        same = step is not None and step["key"] == start_key(self._config["seed"], self._fingerprint)
        if before.get("storage") is not None or not (same or not checkpoints.exists()):
            raise RunFolderError(
                f"{reason}, and nothing else tells that the run was made with this model and these data, or which studies of "
                f"its database are its own: give this run another name. {self._cost}"
            )
        made = self._made(before)
        self._tell(f"{reason}: it is made again, since {CONFIG}, model and data are the run's; its versions are those of now")
        write_record(self._environment_path, made)
        return checked(made, Environment, str(self._environment_path))

    @property
    def _cost(self) -> str:
        return f"Deleting {self._folder} costs all of the run: every stage is then computed anew"

    def _require_format(self, found: Mapping[str, Any]) -> None:
        if found.get("format") != FORMAT:
            raise RunFolderError(
                f"{self._folder} was made by an earlier version, whose configurations said 'yardsticks' for what is now "
                "'baselines' (and 'baseline' for what is now 'reference'). Its network and its report can still be read, but "
                "it can't be gone on with: give this run another name"
            )

    def _write_config(self) -> None:
        write_commented(self._config_path, to_yaml(self._config))

    def _made(self, config: Mapping[str, Any]) -> dict[str, Any]:
        run = {"format": FORMAT, "task_fingerprint": self._fingerprint, "run_id": uuid.uuid4().hex}
        return {**environment(), **run, "configuration": identity(config)}


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration in a run folder's ``config.yaml`` as plain data.

    Raises:
        DamagedFileError: It is damaged; the message begins with the path.
        FileError: It is no regular file.
        OSError: It can't be opened.
    """
    text = read_commented(path)
    try:
        return mapping(parse_value(text), str(path))
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from None


def identity(config: Mapping[str, Any]) -> str:
    """Return a hash of the part of a configuration that a resumed run must have as it was: all but ``execution``."""
    return key_of({name: value for name, value in without_password(config).items() if name != "execution"})


def without_password(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the storage URL stripped of its password, which alone may change between resumes."""
    storage = config.get("storage")
    return {**config} if storage is None else {**config, "storage": StorageUrl(storage).identity}


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
