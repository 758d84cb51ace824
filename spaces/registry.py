"""Names to classes: literal registries and the entry points of installed plug-ins, resolved when used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from spaces.errors import SecateursError


class UnknownNameError(SecateursError):
    """A name that no registry entry or import path answers to."""


_LONG = 50


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the nearest known name as a question, and the whole list; of a long one the names that are near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    question = f"did you mean {near[0]!r}? " if near else ""
    if len(known) > _LONG:
        alike = difflib.get_close_matches(name, known, n=10, cutoff=0.5) or known[:10]
        return f"{question}known: {', '.join(alike)} and {len(known) - len(alike)} more"
    return f"{question}known: {', '.join(known)}"


def is_import_path(name: str) -> bool:
    """Return True for an import path, False for a name in a registry."""
    return "." in name or ":" in name


def resolve(path: str) -> Any:
    """Return the object at an import path, ``package.module:name`` or ``package.module.name``.

    Raises:
        UnknownNameError: The module or the name does not exist.
    """
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not attribute:
        raise UnknownNameError(f"{path!r}: expected an import path such as package.module.name")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UnknownNameError(
                f"{path!r}: there is no module {error.name!r}; is it installed, or is its folder on PYTHONPATH?"
            ) from None
        raise UnknownNameError(f"{path!r}: importing {module_name} failed: {error}") from error
    except (Exception, SystemExit) as error:
        raise UnknownNameError(f"{path!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [name for name in dir(found) if not name.startswith("_")]
            raise UnknownNameError(f"{path!r}: {module_name} has no {part!r}; {suggestion(part, public)}") from None
        except Exception as error:  # A package that imports its parts when they are asked for.
            raise UnknownNameError(f"{path!r}: {part} can't be had: {type(error).__name__}: {error}") from error
    return found


_check: ContextVar[Callable[[str], None] | None] = ContextVar("check", default=None)


@contextmanager
def names_checked(check: Callable[[str], None]) -> Iterator[None]:
    """Have ``check`` called with every import path that :func:`resolve_named` is asked for inside, before the import.

    Args:
        check: Raises an error that tells why the path must not be imported.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def resolve_named(path: str) -> Any:
    """Return the object at an import path that stands in a configuration; :func:`resolve` is for the project's own paths.

    Raises:
        UnknownNameError: The module or the name does not exist.
    """
    check = _check.get()
    if check is not None:
        check(path)
    return resolve(path)


@cache
def plug_ins(kind: str) -> Mapping[str, str]:
    """Return the import paths that installed packages registered for a kind of thing, by name.

    A package registers them as entry points of the group ``secateurs.`` and the plural of the kind, such as
    ``secateurs.algorithms`` or ``secateurs.layer_kinds``. Nothing is imported here.

    Args:
        kind: Noun of the registry, such as ``layer kind``.
    """
    found = entry_points(group=f"secateurs.{kind.replace(' ', '_')}s")
    return {entry.name: entry.value for entry in sorted(found, key=lambda entry: entry.name)}


def members(registry: Mapping[str, str], kind: str) -> dict[str, str]:
    """Return the import path of every member, by name: those of ``registry``, then those of plug-ins under other names."""
    return {**registry, **{name: path for name, path in plug_ins(kind).items() if name not in registry}}


def lookup(registry: Mapping[str, str], name: str, kind: str) -> Any:
    """Return the class registered under ``name``, here or by a plug-in.

    Raises:
        UnknownNameError: ``name`` is not registered; the message names the nearest match and the list.
    """
    if name in registry:
        return resolve(registry[name])
    known = members(registry, kind)
    if name not in known:
        raise UnknownNameError(f"unknown {kind} {name!r}; {suggestion(name, known)}")
    return resolve(known[name])
