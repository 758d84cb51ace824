"""The journal file of a study, written fast enough for small networks."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

_SYNC_EVERY_SECONDS = 0.5


class JournalFile(JournalFileBackend):
    """Optuna's journal file, forced to disk twice a second instead of at each record.

    A killed process loses nothing by that: what is written is the system's. A power cut may lose the last half second
    of trials, which are then evaluated again. (Forcing took 80 % of the time of recording a trial.)
    """

    def __init__(self, file_path: str) -> None:
        super().__init__(file_path)
        self._synced = time.monotonic()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, each in one line."""
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._lock.acquire()
        try:
            with Path(self._file_path).open("ab", buffering=0) as file:
                file.write(content)
                if time.monotonic() - self._synced >= _SYNC_EVERY_SECONDS:
                    os.fsync(file.fileno())
                    self._synced = time.monotonic()
        finally:
            self._lock.release()
