"""best/: the best network so far, complete and loadable at every moment."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.output.atomic import replace_folder, write_json, write_tensors
from search.run.network import Network

FORMAT = 1
WEIGHTS = "weights.safetensors"
ARCHITECTURE = "architecture.json"


class Best:
    """Writer of ``best/``.

    Args:
        path: The folder.
        origin: Recipe of the original network: ``{"model": {"factory", "arguments"}}`` or ``{"class", "arguments"}``.
        provenance: Provenance common to every network of the run: its name and seed.
    """

    def __init__(self, path: Path, origin: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Keep the place and the origin; nothing is written before :meth:`replace`."""
        self.path = path
        self._origin = origin
        self._provenance = provenance

    def provenance(self) -> dict[str, Any] | None:
        """Return the provenance of the network on disk (run, seed, step, trial ...), or None where there is none."""
        architecture = self.path / ARCHITECTURE
        if not architecture.exists():
            return None
        found: dict[str, Any] = json.loads(architecture.read_text())["provenance"]
        return found

    def replace(self, network: Network, provenance: dict[str, Any], extras: Callable[[Path], None] | None = None) -> None:
        """Replace the network on disk by ``network``, atomically.

        Args:
            network: The network; it is written in its stored form.
            provenance: Stage, trial, fingerprint, metrics of the network.
            extras: Function that writes more files into the new folder before it replaces the old one.
        """
        network = network.stored()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for left in self.path.parent.glob(".best.*.new"):
            shutil.rmtree(left)
        new = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=".best.", suffix=".new"))
        try:
            new.chmod(0o755)
            write_tensors(new / WEIGHTS, network.tensors())
            write_json(
                new / ARCHITECTURE,
                {
                    "format": FORMAT,
                    "task": self._origin,
                    "transformations": list(network.transformations),
                    "provenance": {**self._provenance, **provenance},
                },
            )
            if extras is not None:
                extras(new)
            replace_folder(new, self.path)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def read_best(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the content of ``architecture.json`` and ``weights.safetensors``, of one network even while a run replaces it.

    Raises:
        OSError: One of the two files is missing.
    """
    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return json.loads(_read(ARCHITECTURE, handle)), _read(WEIGHTS, handle)
        except FileNotFoundError:
            if os.path.samestat(os.fstat(handle), folder.stat()):
                raise
        finally:
            os.close(handle)


def _read(name: str, folder: int) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()
