"""Options of registered blocks: type, default and meaning of each, read off ``Settings`` and its docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from search.pipeline.inspection import REGISTRIES
from spaces.registry import UnknownNameError, resolve, suggestion

_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a block.

    Attributes:
        name: As a configuration has it; ``racing.fidelities`` is one of the options of ``racing``.
        type: The annotation.
        default: As a configuration would have it; empty where it must be given.
        meaning: From the docstring.
    """

    name: str
    type: str
    default: str
    meaning: str


def options_of(settings: Any, prefix: str = "") -> Iterator[Option]:
    """Yield the options of a dataclass of settings, each followed by those of the settings that it may hold."""
    meanings: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        meanings |= {name: " ".join(text.split()) for name, text in _ENTRY.findall(inspect.getdoc(base) or "")}
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kinds = (hints[field.name], *get_args(hints[field.name]))
        inner = next((kind for kind in kinds if hasattr(kind, "__pydantic_config__")), None)
        yield Option(
            prefix + field.name, _type(hints[field.name], str(field.type)), _default(field, inner), meanings.get(field.name, "")
        )
        if inner is not None:
            yield from options_of(inner, f"{prefix}{field.name}.")


def _default(field: dataclasses.Field[Any], inner: Any) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    if inner is not None and isinstance(value, inner):
        return "as below"
    if isinstance(value, tuple):
        value = list(value)
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _type(hint: Any, annotation: str) -> str:
    """Return an annotation as a person reads it: the choices of a literal, and blocks by what they name."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    return re.sub(r"(\w+)Block", lambda found: found[1].lower(), annotation)


def options_by_kind(name: str) -> dict[str, tuple[Any, list[Option]]]:
    """Return the classes that are registered under ``name``, with their options, by kind.

    Raises:
        UnknownNameError: There is none.
    """
    found: dict[str, tuple[Any, list[Option]]] = {}
    known: list[str] = []
    for registry in REGISTRIES:
        entries = registry.members
        known += entries
        if name in entries:
            member = resolve(entries[name])
            found[registry.kind] = (member, list(options_of(member.Settings)))
    if not found:
        raise UnknownNameError(f"nothing is registered as {name!r}; {suggestion(name, known)}")
    return found


def show_options(name: str, console: Console) -> None:
    """Print what :func:`options_by_kind` finds."""
    for kind, (member, options) in options_by_kind(name).items():
        console.print(f"{kind} {name}\n{inspect.getdoc(member)}\n", markup=False, highlight=False)
        table = Table()
        table.add_column("option", overflow="fold")
        table.add_column("type", overflow="fold", ratio=2)
        table.add_column("default", overflow="fold", ratio=1)
        table.add_column("meaning", overflow="fold", ratio=4)
        for option in options:
            table.add_row(*map(escape, (option.name, option.type, option.default or "must be given", option.meaning)))
        console.print(table if options else "no options")
