"""Journal file of a study: appended without a sync at each record, and repaired after a kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from search.run.run_storage import Answer, RunStorage

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_SYNC_EVERY_SECONDS = 0.5


class JournalFile(JournalFileBackend):
    """Optuna's journal file, forced to disk twice a second instead of at each record.

    A killed process loses nothing by that: what is written is the system's. A power cut may lose the last half second
    of trials, which are then evaluated again. (Forcing took 80 % of the time of recording a trial.)
    """

    def __init__(self, file_path: str) -> None:
        self._guard = JournalFileSymlinkLock(file_path)
        super().__init__(file_path, self._guard)
        self._journal = Path(file_path)
        self._synced = time.monotonic()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, each in one line: all of them, or on an error (such as a full disk) none."""
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._guard.acquire()
        try:
            with self._journal.open("ab", buffering=0) as file:
                before = file.tell()
                try:
                    while content:
                        content = content[file.write(content) :]
                except OSError:
                    file.truncate(before)
                    raise
                if time.monotonic() - self._synced >= _SYNC_EVERY_SECONDS:
                    os.fsync(file.fileno())
                    self._synced = time.monotonic()
        finally:
            self._guard.release()


def cut_torn_records(path: Path) -> str:
    """Cut the journal before its first unreadable record, and return a message about the cut; empty without one.

    A kill leaves at most one record written in part, at the end. Where more follows the first unreadable one (a power
    cut may lose a block in the middle), what is cut is kept beside the journal.
    """
    if not path.exists():
        return ""
    content = path.read_bytes()
    whole = 0
    for line in content.splitlines(keepends=True):
        if not _readable(line):
            break
        whole += len(line)
    torn = content[whole:]
    if not torn:
        return ""
    words = f"{path.name}: cut off {len(torn)} bytes of a torn record at its end"
    if torn.find(b"\n") not in (-1, len(torn) - 1):
        kept = path.with_name(path.name + ".cut")
        kept.write_bytes(torn)
        words = (
            f"{path.name}: the record at byte {whole} is damaged; cut off {len(torn)} bytes from there, kept in {kept.name}: "
            "the trials in them are evaluated again"
        )
    with path.open("r+b") as file:
        file.truncate(whole)
        os.fsync(file.fileno())
    return words


def _readable(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record and "worker_id" in record


class Journal(JournalStorage, RunStorage):
    """Storage of one run in a journal file: belongs to the folder's lock, and always answers.

    Args:
        path: The journal, whose torn records were cut.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(JournalFile(str(path)))

    def claim(self, study: Study) -> None:
        """Do nothing: the folder of a journal belongs to one run."""

    def record(self, study: Study, trial: FrozenTrial) -> None:
        """Append a finished trial."""
        study.add_trial(trial)

    def patiently(self, operation: Callable[[], Answer]) -> Answer:
        """Return the result of ``operation``."""
        return operation()
