"""best/: the best network so far, complete and loadable at every moment."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from search.output.atomic import replace_folder, write_json, write_tensors
from search.run.network import Network
from search.trust.architecture import FORMAT
from search.trust.files import opened

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
        new = self.path.parent / f".best.{secrets.token_hex(4)}.new"
        new.mkdir()
        try:
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


@contextmanager
def open_best(folder: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open ``architecture.json`` and ``weights.safetensors``: of one network, also while a run replaces it.

    Raises:
        OSError: One of the two is not there.
        FileError: One of the two is no regular file.
    """
    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with ExitStack() as files:
            files.callback(os.close, handle)
            try:
                architecture = files.enter_context(opened(ARCHITECTURE, handle))
                weights = files.enter_context(opened(WEIGHTS, handle))
            except FileNotFoundError:
                if os.path.samestat(os.fstat(handle), folder.stat()):
                    raise
                continue
            yield architecture, weights
            return


def read_best(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the content of ``architecture.json`` and ``weights.safetensors``, opened by :func:`open_best`."""
    with open_best(folder) as (architecture, weights):
        return json.loads(architecture.read()), weights.read()
