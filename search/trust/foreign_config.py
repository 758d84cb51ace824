"""A configuration that lies in a run folder of somebody else: what it may name, decided before anything of it is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.config.document import Document, read_document
from search.config.document import Path as Place
from search.config.overrides import apply_overrides
from search.trust.known_code import is_known
from spaces.errors import SecateursError
from spaces.files.reading import FileError, shown
from spaces.registry import names_checked

_OF_A_RUN = ("environment.json", "study.journal", "report.json", "checkpoints", "best")
_REACHING = ("address", "cache", "storage", "trackers")
"""Options that name a place beyond the run folder, which is connected to or written."""

_FETCHED = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
"""Arguments of listed factories that fetch weights."""


class ForeignConfigError(SecateursError):
    """A run folder of somebody else whose configuration names something beyond that folder."""


@contextmanager
def permitted(path: Path, overrides: Sequence[str], trust: Sequence[str]) -> Iterator[None]:
    """Let a configuration name code only where a person has a say in it, while it is loaded inside the context.

    A configuration is a person's own program, and what its overrides say is a person's own word. One in the folder of a run
    that was not begun by this account on this machine is not: its network comes from a closed list, or its code is trusted.

    Args:
        path: The configuration.
        overrides: ``key=value`` texts.
        trust: Packages and modules whose code may run, as dotted paths.

    Raises:
        SecateursError: ``trust`` is wrong, or the configuration names what it may not.
    """
    folder = path.absolute().parent
    foreign = any((folder / name).exists() for name in _OF_A_RUN) and not is_known(folder, read_document(path).data)
    if not (foreign or trust):
        yield
        return
    # Factories load torch: a mistake in a person's own file is told without.
    from search.trust.errors import package_of
    from search.trust.factories import covers, trusted_object, trusted_packages

    packages = trusted_packages(trust)
    if not foreign:
        yield
        return
    document = read_document(path)
    apply_overrides(document, overrides)
    _require_inside(document, folder)
    own = {str(value) for place, value in _places(document.data) if _is_own_word(document, place)}
    listed = _listed_factory(document, folder, packages)

    def check(name: str) -> None:
        if name == listed or name in own:
            return
        if covers(packages, name):
            trusted_object(name, packages)
            return
        raise ForeignConfigError(
            f"{shown(name)} is code of a person's own, and {folder} was not made by this account on this machine; if you know "
            f"and trust that code: --trust {package_of(name)}"
        )

    with names_checked(check):
        yield


def _require_inside(document: Document, folder: Path) -> None:
    """Raise if the configuration reaches beyond its folder by an option that no override repeats."""
    for place, value in _places(document.data):
        if place[-1] in _REACHING and value not in (None, "", "auto", []) and not _is_own_word(document, place):
            key = ".".join(map(str, place))
            raise ForeignConfigError(
                f"{key}: {folder} was not made by this account on this machine, and names a place beyond it, "
                f"{shown(value)}; give the option anew if that is meant: {key}=..."
            )


def _listed_factory(document: Document, folder: Path, packages: Sequence[str]) -> str | None:
    """Return the import path of the network's factory where a closed list has it, else None.

    Raises:
        SecateursError: It is on no closed list and not trusted, or fetches weights.
    """
    task = document.data.get("task")
    model = task.get("model") if isinstance(task, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(model.get("factory"), str):
        return None
    from search.trust.factories import admit

    name, arguments = model["factory"], model.get("arguments")
    if _is_own_word(document, ("task", "model", "factory")):
        return None
    if not admit({"model": {"factory": name, "arguments": arguments}}, folder, packages).listed:
        return None
    for key in _FETCHED:
        if isinstance(arguments, Mapping) and arguments.get(key):
            raise FileError(f"task.model.arguments.{key}: a run folder of somebody else can't have weights fetched")
    return str(name)


def _is_own_word(document: Document, place: Place) -> bool:
    """Return True if a person's override says what stands at ``place``."""
    return document.origin(place).startswith("override")


def _places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key), inner
        yield from _places(inner, (*place, key))
