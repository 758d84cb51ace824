"""best/: the best network so far, complete and loadable at every moment."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field
from typing_extensions import TypedDict

from search.output.atomic import replace_folder
from search.output.log_records import PACKAGE
from search.run.network import Network
from search.run.record_file import Tell, checked
from search.trust.architecture import FORMAT
from spaces.files.json_file import mapping, unpack_record, write_record
from spaces.files.reading import FileError, opened, read_bounded
from spaces.files.tensor_file import unpack_tensors, write_tensors

WEIGHTS = "weights.safetensors"
ARCHITECTURE = "architecture.json"


class Provenance(TypedDict, total=False):
    """Origin of a network in ``architecture.json``, as far as a run reads it."""

    step: Annotated[str, Field(pattern=r"^[0-9]{1,9}-")]
    trial: int | None
    key: str


class Best:
    """Writer of ``best/``.

    Args:
        path: The folder.
        origin: Recipe of the original network: ``{"model": {"factory", "arguments"}}`` or ``{"class", "arguments"}``.
        provenance: Provenance common to every network of the run: its name and seed.
        tell: Takes a line about a damaged file.
    """

    def __init__(self, path: Path, origin: dict[str, Any], provenance: dict[str, Any], tell: Tell = PACKAGE.warning) -> None:
        """Keep the place and the origin; nothing is read or written yet."""
        self.path = path
        self._origin = origin
        self._common = provenance
        self._tell = tell

    @cached_property
    def _known(self) -> dict[str, Any] | None:
        try:
            architecture, _ = read_best(self.path)
            name = str(self.path / ARCHITECTURE)
            found = mapping(architecture.get("provenance"), f"{name}: provenance")
            checked(found, Provenance, f"{name}: provenance")
            return found
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.path.exists():
                self._tell(f"{error.filename or self.path} is missing in {self.path}, which is made again from the checkpoints")
        except FileError as error:
            self._tell(f"{error}: {self.path} is made again from the checkpoints")
        return None

    def provenance(self) -> dict[str, Any] | None:
        """Return the provenance of the network on disk (run, seed, step, trial ...), or None where there is none.

        One of which a file is damaged counts as none, and is told; it is looked at once, and nobody else writes it.
        """
        return self._known

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
            transformations = list(network.transformations)
            known = {**self._common, **provenance}
            data = {"format": FORMAT, "task": self._origin, "transformations": transformations, "provenance": known}
            write_record(new / ARCHITECTURE, data)
            if extras is not None:
                extras(new)
            replace_folder(new, self.path)
            self._known = known
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
    """Return the content of ``architecture.json`` and ``weights.safetensors``, opened by :func:`open_best`.

    Raises:
        FileError: One of the two is damaged; the message begins with its path.
        OSError: One of the two is not there.
    """
    with open_best(folder) as (architecture, weights):
        name = str(folder / ARCHITECTURE)
        recorded = unpack_record(read_bounded(architecture, name), name)
        content = weights.read()
    unpack_tensors(content, str(folder / WEIGHTS))
    return recorded, content
