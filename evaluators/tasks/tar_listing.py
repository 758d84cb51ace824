"""Indexes of the tar archives of a folder, kept on disk by sizes and times of the archives."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from evaluators.tasks.data import DataError
from evaluators.tasks.image_files import READERS
from evaluators.tasks.image_listing import SETTLED
from evaluators.tasks.tar_index import ShardIndex, read_index
from spaces.files.cache_folder import cache_folder
from spaces.files.reading import FileError
from spaces.files.tensor_file import unpack_tensors, write_tensors

FORMAT = 1
"""Number of the file's form; a file of another form is made again."""

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def list_shards(place: Path, endings: tuple[str, ...], most_bytes: int) -> list[tuple[str, ShardIndex]]:
    """Return the archives ``*.tar`` in ``place``, by name, with their indexes; those that have not changed are not read again.

    Args:
        place: The folder.
        endings: Endings of images.
        most_bytes: Most bytes of an image.

    Raises:
        DataError: An archive is compressed, or can't be opened.
    """
    entries = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
    if packed := [entry.name for entry in entries if entry.name.endswith(COMPRESSED)]:
        raise DataError(
            f"tar_shards: expected archives that are not compressed in {place}, got {', '.join(packed[:3])}; unpack them "
            "(gunzip), images don't become smaller by it"
        )
    with ThreadPoolExecutor(READERS) as pool:
        paths = [entry for entry in entries if entry.name.endswith(".tar") and entry.is_file()]
        return list(pool.map(lambda path: (str(path), _index(path, endings, most_bytes)), paths))


def _index(path: Path, endings: tuple[str, ...], most_bytes: int) -> ShardIndex:
    try:
        now, state = time.time_ns(), path.stat()
        identity = {
            "format": FORMAT,
            "archive": [state.st_size, state.st_mtime_ns, state.st_ctime_ns],
            "read": [list(endings), most_bytes],
        }
        if (kept := _kept(path, identity)) is not None:
            return kept
        index = read_index(path, endings, most_bytes)
    except OSError as error:
        raise DataError(
            f"tar_shards: {path} can't be read ({error.strerror}); let this account read it, or move it elsewhere"
        ) from error
    if max(state.st_mtime_ns, state.st_ctime_ns) + SETTLED < now:
        _keep(path, index, identity)
    return index


def _file(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    return cache_folder().absolute() / "shards" / f"{digest[:24]}.safetensors"


def _kept(path: Path, identity: Mapping[str, Any]) -> ShardIndex | None:
    """Return what an earlier call has kept; None of a damaged, foreign or outdated file."""
    # RuntimeError: without a home folder nothing is kept.
    with suppress(OSError, RuntimeError, FileError, KeyError, TypeError):
        tensors, data = unpack_tensors(_file(path).read_bytes(), str(path))
        rows = tensors["samples"]
        if data["identity"] == identity and rows.dtype == torch.int64 and rows.dim() == 2 and rows.shape[1] == 3:
            return ShardIndex(rows.numpy(), int(data["problems"]), tuple(map(str, data["reasons"])), str(data["damage"]))
    return None


def _keep(path: Path, index: ShardIndex, identity: Mapping[str, Any]) -> None:
    with suppress(OSError, RuntimeError, FileError):
        data = {"identity": identity, "problems": index.problems, "reasons": list(index.reasons), "damage": index.damage}
        write_tensors(_file(path), {"samples": torch.from_numpy(index.samples)}, data)
