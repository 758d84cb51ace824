"""Keep the milliseconds of layers and networks on one machine in a JSON file, shared by all runs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from evaluators.latency.backends.base import Conditions, find_backend
from spaces.files.cache_folder import cache_folder
from spaces.files.json_file import mapping, read_record, write_record
from spaces.files.reading import FileError, shown
from spaces.records import RecordError, amount

_LOGGER = logging.getLogger("search")


class LayerCache:
    """Milliseconds by :attr:`.LayerRequest.key`, for one machine, backend and number of threads."""

    def __init__(
        self, folder: str | None, machine: str, conditions: Conditions, tell: Callable[[str], object] = _LOGGER.warning
    ) -> None:
        """Read the file of the machine and the conditions, if there is one.

        Args:
            folder: Folder of the file; None for the one that ``SECATEURS_CACHE`` names, else ``~/.cache/secateurs``.
            machine: Name of the processor or GPU.
            conditions: Conditions of the measurement; the number of runs does not matter.
            tell: Takes a line about a damaged file.
        """
        self._header = {
            "machine": machine,
            "backend": conditions.backend,
            "device": conditions.device,
            "threads": conditions.threads,
            "version": find_backend(conditions.backend).version(),
        }
        name = hashlib.sha256(json.dumps(self._header, sort_keys=True).encode()).hexdigest()[:12]
        self.path = (Path(folder).expanduser() if folder else cache_folder()) / f"latency-{name}.json"
        self._tell = tell
        self._found = self._read()

    def get(self, key: str) -> float | None:
        """Return the milliseconds of ``key``, or None if they were never measured."""
        return self._found.get(key)

    def __getitem__(self, key: str) -> float:
        """Return the milliseconds of ``key``, measured before."""
        return self._found[key]

    def add(self, found: Mapping[str, float]) -> None:
        """Add milliseconds to the file, beside those that other runs have added meanwhile."""
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            self._found = {**self._found, **self._read(), **found}
            write_record(self.path, {**self._header, "milliseconds": dict(sorted(self._found.items()))})

    def _read(self) -> dict[str, float]:
        try:
            content = read_record(self.path)
            found = mapping(content.get("milliseconds"), f"{self.path}: milliseconds")
            return {key: amount(value, f"{self.path}: milliseconds: {shown(key)}") for key, value in found.items()}
        except FileNotFoundError:
            return {}
        except (FileError, RecordError) as error:
            self._tell(f"{error}: its latencies are measured again")
            return {}
