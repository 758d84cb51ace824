"""Images of class folders, listed by threads and kept on disk by the times at which the folders changed."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from evaluators.tasks.data import DataError
from evaluators.tasks.image_files import READERS, Sample
from spaces.files.cache_folder import cache_folder
from spaces.files.json_file import mapping, read_record, write_record
from spaces.files.reading import FileError, shown
from spaces.records import RecordError

FORMAT = 1
"""Number of the file's form; a file of another form is made again."""

SETTLED = 2_000_000_000
"""Nanoseconds without a change before a folder's listing is kept: clocks of file systems tick as slowly as that."""

_LOGGER = logging.getLogger("search")


class Folder(NamedTuple):
    """One listed folder.

    Attributes:
        times: Nanoseconds of the last change of its names, and of the folder itself, which no program can set back.
        folders: Names of the folders in it, each followed by ``/``: the one character, beside NUL, that no name has.
        images: Names of the images in it, sorted, each followed by ``/``.
        lasting: Whether the same times mean the same names.
    """

    times: tuple[int, int]
    folders: str
    images: str
    lasting: bool


_LISTED: dict[str, dict[str, Folder]] = {}
"""Folders that this process has listed, by path below the key, the folder that the classes lie in."""


def list_images(place: Path) -> tuple[list[Sample], list[str]]:
    """Return the images in the class folders of ``place``, class by class in the order of names, and the names of the classes.

    Hidden folders are no classes; a class may be empty. A class has the images of the folders below it too, folder by folder in
    the order of paths. A folder that has not changed since it was listed is not listed again: neither in this process, nor in
    another that finds the file of :func:`listing_file`.

    Raises:
        DataError: A folder can't be listed.
    """
    root = str(place.absolute())
    names = sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    known = _LISTED[root] if root in _LISTED else _kept(root)
    samples: list[Sample] = []
    found: dict[str, Folder] = {}
    try:
        with ThreadPoolExecutor(READERS) as pool:
            for number, tree in enumerate(pool.map(lambda name: _listed(root, name, known), names)):
                found.update(tree)
                for inner in sorted(tree):
                    start = f"{Path(root, inner)}/"
                    samples += [(start + name, number) for name in _split(tree[inner].images)]
    except OSError as error:
        raise DataError(
            f"image_folder: {error.filename} can't be listed ({error.strerror}); let this account read it, or move it elsewhere"
        ) from error
    lasting = {inner: folder for inner, folder in found.items() if folder.lasting}
    if lasting != known:
        _keep(root, lasting)
    _LISTED[root] = lasting
    return samples, names


def listing_file(place: Path) -> Path:
    """Return the JSON file that keeps the listing of ``place``, in the folder of :func:`.cache_folder`.

    Raises:
        RuntimeError: The account has no home folder.
    """
    return cache_folder().absolute() / f"images-{hashlib.sha256(os.fsencode(place.absolute())).hexdigest()[:12]}.json"


def _listed(root: str, name: str, known: Mapping[str, Folder]) -> dict[str, Folder]:
    """Return the class folder ``name`` and those below it, by path below ``root``."""
    try:
        return _walked(root, name, known)
    except (FileNotFoundError, NotADirectoryError):
        # A link leads to a folder no more, which the times of the folder that the link is in don't show.
        return _walked(root, name, {})


def _walked(root: str, name: str, known: Mapping[str, Folder]) -> dict[str, Folder]:
    found: dict[str, Folder] = {}
    waiting = [name]
    while waiting:
        inner = waiting.pop()
        path, now = Path(root, inner), time.time_ns()
        state = path.stat()
        times, before = (state.st_mtime_ns, state.st_ctime_ns), known.get(inner)
        if before is None or before.times != times:
            folders, images, whole = _scanned(path)
            lasting = whole and max(times) + SETTLED < now and _is_text(inner)
            before = Folder(times, folders, images, lasting)
        found[inner] = before
        waiting += [f"{inner}/{folder}" for folder in _split(before.folders)]
    return found


def _scanned(path: Path) -> tuple[str, str, bool]:
    """Return the folders and the images in a folder, as :class:`Folder` has them, and whether its times tell of changes."""
    endings, whole = _endings(), True
    folders: list[str] = []
    images: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                inside, leads = entry.is_dir(), not entry.is_symlink() or entry.is_file()
            except OSError:
                # A chain of links without an end.
                inside = leads = False
            if inside:
                folders.append(entry.name)
                continue
            # What a broken link leads to may appear later.
            whole = whole and leads
            if entry.name.lower().endswith(endings):
                images.append(entry.name)
    joined = _joined(sorted(folders)), _joined(sorted(images))
    return *joined, whole and _is_text("".join(joined))


def _joined(names: list[str]) -> str:
    return "".join(f"{name}/" for name in names)


def _split(names: str) -> list[str]:
    return names.split("/")[:-1]


def _is_text(name: str) -> bool:
    """Return True for a name that JSON can hold, False for bytes that are no UTF-8."""
    with suppress(UnicodeEncodeError):
        name.encode()
        return True
    return False


def _endings() -> tuple[str, ...]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)


def _header(root: str) -> dict[str, Any]:
    return {"format": FORMAT, "root": os.fsencode(root).decode(errors="backslashreplace"), "endings": list(_endings())}


def _kept(root: str) -> dict[str, Folder]:
    """Return the folders that an earlier call has kept, by path below ``root``; none of a damaged or foreign file."""
    # RuntimeError: without a home folder nothing is kept.
    with suppress(OSError, RuntimeError):
        path = listing_file(Path(root))
        try:
            content, header = read_record(path), _header(root)
            if {key: content.get(key) for key in header} == header:
                return dict(_unpacked(mapping(content.get("folders"), f"{path}: folders"), str(path)))
        except (FileError, RecordError) as error:
            _LOGGER.warning("%s: its images are listed again", error)
    return {}


def _unpacked(folders: Mapping[str, Any], where: str) -> Iterator[tuple[str, Folder]]:
    for inner, content in folders.items():
        match content:
            case [int(changed), int(moved), str(below), str(images)] if _sound(below, ()) and _sound(images, _endings()):
                yield inner, Folder((changed, moved), below, images, lasting=True)
            case _:
                raise RecordError(f"{where}: {shown(inner)}: expected two times, folders and images, got {shown(content)}")


def _sound(names: str, endings: tuple[str, ...]) -> bool:
    """Return True for names that stay in their folder, are sorted, and have one of the ``endings``, if there are any."""
    found = _split(names)
    return (
        _joined(found) == names
        and found == sorted(found)
        and "\0" not in names
        and not {"", ".", ".."} & set(found)
        and (not endings or all(name.lower().endswith(endings) for name in found))
    )


def _keep(root: str, folders: Mapping[str, Folder]) -> None:
    """Keep ``folders``, where this account may write; never among the classes."""
    with suppress(OSError, RuntimeError, FileError):
        path = listing_file(Path(root))
        if not path.is_relative_to(root):
            packed = {inner: [*folder.times, folder.folders, folder.images] for inner, folder in sorted(folders.items())}
            write_record(path, {**_header(root), "folders": packed})
