"""Keep the milliseconds of layers and networks on one machine in a JSON file, shared by all runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from evaluators.latency.backends.base import Conditions, find_backend
from spaces.files import read_json_or_none, replace_file

VARIABLE = "SECATEURS_CACHE"


class LayerCache:
    """Milliseconds by :attr:`.LayerRequest.key`, for one machine, backend and number of threads."""

    def __init__(self, folder: str | None, machine: str, conditions: Conditions) -> None:
        """Read the file of the machine and the conditions, if there is one.

        Args:
            folder: Folder of the file; None for the one that ``SECATEURS_CACHE`` names, else ``~/.cache/secateurs``.
            machine: Name of the processor or GPU.
            conditions: Conditions of the measurement; the number of runs does not matter.
        """
        where = folder or os.environ.get(VARIABLE) or str(Path.home() / ".cache" / "secateurs")
        self._header = {
            "machine": machine,
            "backend": conditions.backend,
            "device": conditions.device,
            "threads": conditions.threads,
            "version": find_backend(conditions.backend).version(),
        }
        name = hashlib.sha256(json.dumps(self._header, sort_keys=True).encode()).hexdigest()[:12]
        self.path = Path(where).expanduser() / f"latency-{name}.json"
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
            content = {**self._header, "milliseconds": self._found}
            replace_file(self.path, json.dumps(content, indent=0, sort_keys=True).encode())

    def _read(self) -> dict[str, float]:
        # A file that is missing or damaged costs only the time to measure again.
        content = read_json_or_none(self.path)
        found = content.get("milliseconds") if isinstance(content, dict) else None
        entries = found.items() if isinstance(found, dict) else ()
        return {str(key): float(value) for key, value in entries if isinstance(value, int | float)}
