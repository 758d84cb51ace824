"""The run folder: one driver at a time, resumed only with the same configuration, model and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from search.config.document import parse_value, to_yaml
from search.output.atomic import recover_folder
from search.output.log_records import PACKAGE
from search.run.differences import differences
from search.run.folder_lock import LOCK_FILE, FolderBusyError, FolderLock
from search.run.leftovers import remove_leftovers
from search.run.record_file import Tell
from search.run.run_records import CONFIG, ENVIRONMENT, RunFolderError, RunRecords, environment, without_password

__all__ = ["RunFolder", "RunFolderError"]

_NO_CONTENT = (LOCK_FILE, "log.txt", ENVIRONMENT)


class RunFolder:
    """A run's folder, locked for this process until :meth:`close` or the process's end, however it ends.

    Attributes:
        path: The folder, ``runs/NAME``.
        resumed: True if the folder held a run already.
        before: The configuration that a resumed run had, as plain data, set by :meth:`adopt`; empty for a new one.
        record: The configuration as plain data, as the folder's record has it, set by :meth:`adopt`.
        run_id: Random identity of the run, hexadecimal, set by :meth:`adopt`; differs between runs of the same name.

    Raises:
        RunFolderError: The path is a file, holds other files than a run's, or is locked by another process.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder, lock it, and finish a replacement of ``best/`` that was cut off."""
        self.path = path
        self.run_id = ""
        self.before: dict[str, Any] = {}
        self.record: dict[str, Any] = {}
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; expected a folder, or nothing: give the run another name")
        strange = path.is_dir() and not self.config_path.exists() and _content(path)
        begun = strange and (path / ENVIRONMENT).exists()
        if strange and not begun:
            raise RunFolderError(f"{path} holds {strange[0]!r} but no run (no config.yaml): give the run another name")
        self._made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(path)
        except FolderBusyError:
            raise RunFolderError(
                f"{path} is in use by another process; wait for its end, stop it, or give this run another name"
            ) from None
        self.resumed = bool(begun) or self.config_path.exists()
        recover_folder(self.best)
        remove_leftovers(path)

    @property
    def config_path(self) -> Path:
        """Path of the configuration that the run was started with."""
        return self.path / CONFIG

    @property
    def best(self) -> Path:
        """Folder of the best network so far."""
        return self.path / "best"

    @property
    def checkpoints(self) -> Path:
        """Folder of the stages' files, one folder per stage."""
        return self.path / "checkpoints"

    def adopt(
        self,
        config: dict[str, Any],
        task_fingerprint: str,
        tell: Tell = PACKAGE.warning,
        as_recorded: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
    ) -> list[str]:
        """Record configuration, model and data of a new run, or check that a resumed run has the same.

        Args:
            config: The configuration as plain data.
            task_fingerprint: Hash of model and data.
            tell: Takes a line about a damaged file.
            as_recorded: Returns the configuration in the form of the recorded one, without options that it does not know and
                that are at their default; None for the configuration as it is.

        Returns:
            The differences that are allowed, in words.

        Raises:
            RunFolderError: Configuration, model or data differ; the message names the field. Or a file that tells them is
                damaged, and nothing else does.
        """
        records = RunRecords(self.path, config, task_fingerprint, tell)
        self.record = config
        if not self.resumed:
            self.run_id = records.begin()
            return []
        recorded = records.environment()
        self.run_id = recorded["run_id"]
        self.before = before = records.configuration(recorded)
        if as_recorded is not None:
            self.record = as_recorded(before)
            records = RunRecords(self.path, self.record, task_fingerprint, tell)
        after = parse_value(to_yaml(self.record))
        found = list(differences(without_password(before), without_password(after)))
        refused = [difference for difference in found if not difference.allowed]
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise RunFolderError(
                f"{self.path} holds another run: {refused[0]}{more}. Only execution.* may differ, and a search's "
                "budgets, epochs of a retraining, formats and baselines may grow: give the run another name, with --from "
                f"{self.path} for what stays the same, or give the old value back"
            )
        if recorded["task_fingerprint"] != task_fingerprint:
            raise RunFolderError(
                f"{self.path} was made with another model or other data: task (the content of task.data, "
                f"task.model.checkpoint or the model) had fingerprint {recorded['task_fingerprint']} and now has "
                f"{task_fingerprint}: give the run another name"
            )
        versions = recorded.get("versions", {})
        changed = [
            f"{name} was {versions.get(name)} and is now {value}"
            for name, value in environment()["versions"].items()
            if versions.get(name) != value
        ]
        if found:
            records.change(recorded)
        return [*map(str, found), *changed]

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


def _content(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name not in _NO_CONTENT)
