"""Journal file of a study: appended without a sync at each record, and repaired after a kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from search.run.run_storage import Answer, RunStorage
from spaces.files.atomic import replace_file
from spaces.files.digest import BLANK, fill, matches, stands_in
from spaces.files.json_file import DIGEST
from spaces.files.reading import DamagedFileError, opened

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_SYNC_EVERY_SECONDS = 0.5
_HEAD = b'{"digest":"'


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
        content = b"".join(map(pack_line, logs))
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


def pack_line(log: Mapping[str, Any]) -> bytes:
    """Return a record of the journal in one line, with a digest over the rest of the line, which Optuna passes over."""
    line = json.dumps({DIGEST: BLANK, **log}, separators=(",", ":")) + "\n"
    return fill(line.encode(), len(_HEAD))


def cut_torn_records(path: Path) -> str:
    """Cut the journal before its first damaged record, and return a message about the cut; empty without one.

    A kill leaves at most one record written in part, at the end. Where more follows the first damaged one (a power
    cut may lose a block in the middle), what is cut is kept beside the journal.
    """
    if not path.exists():
        return ""
    content, whole = _read(path)
    torn = content[whole:]
    if not torn:
        return ""
    words = f"{path.name}: cut off {len(torn)} bytes of a torn record at its end"
    if torn.find(b"\n") not in (-1, len(torn) - 1):
        kept = path.with_name(path.name + ".cut")
        replace_file(kept, torn)
        words = (
            f"{path.name}: the record at byte {whole} is damaged; cut off {len(torn)} bytes from there, kept in {kept.name}: "
            "the trials in them are evaluated again, where their search has not ended"
        )
    with path.open("r+b") as file:
        file.truncate(whole)
        os.fsync(file.fileno())
    return words


def look_for_damage(path: Path) -> str:
    """Return a message about a torn last record of a journal that is only looked at; empty for a whole one.

    Raises:
        FileError: A record before the last is damaged, so that trials would be shown that were not.
    """
    content, whole = _read(path)
    torn = content[whole:]
    if b"\n" in torn:
        raise DamagedFileError(f"{path}: the record at byte {whole} is damaged; the run repairs it when it goes on")
    if not content:
        return f"{path.name} is empty: there is no study to show"
    return f"{path.name}: the last record is torn, or just being written: it is not shown" if torn else ""


def _read(path: Path) -> tuple[bytes, int]:
    """Return the content of a journal, and the number of bytes before its first damaged record."""
    with opened(path) as journal:
        content = journal.read()
    whole = 0
    for line in content.splitlines(keepends=True):
        if not _readable(line):
            break
        whole += len(line)
    return content, whole


def _readable(line: bytes) -> bool:
    """Return True for a whole record; one without a digest, from an earlier version, has to be JSON."""
    if not line.endswith(b"\n"):
        return False
    if stands_in(line, _HEAD):
        return matches(line, len(_HEAD))
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
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
