"""Options of registered blocks: type, default and meaning of each, read off ``Settings`` and its docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from search.config.registries import STAGE, LimitText, Registered
from search.config.yaml_text import in_yaml
from search.pipeline.inspection import REGISTRIES
from spaces.registry import UnknownNameError, resolve, suggestion

_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)
_NARROW = 100
"""Columns below which a table of options would be a column of single words."""

_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null", Any: "any value"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a block.

    Attributes:
        name: As a configuration has it; ``racing.fidelities`` is one of the options of ``racing``.
        type: The form of its values, in words.
        default: As a configuration would have it; empty where it must be given.
        meaning: From the docstring, in plain text.
        inner: Dataclass of the settings that it holds; None for a plain value.
    """

    name: str
    type: str
    default: str
    meaning: str
    inner: Any = None


def own_options(settings: Any) -> list[Option]:
    """Return the options of a dataclass of settings, in their order, without those of the settings that they may hold."""
    meanings: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        meanings |= {name: plain_text(text) for name, text in _ENTRY.findall(inspect.getdoc(base) or "")}
    hints = get_type_hints(settings, include_extras=True)
    found = []
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        inner = next((kind for kind in (hint, *get_args(hint)) if hasattr(kind, "__pydantic_config__")), None)
        found.append(Option(field.name, type_in_words(hint), _default(field, inner), meanings.get(field.name, ""), inner=inner))
    return found


def options_of(settings: Any, prefix: str = "") -> Iterator[Option]:
    """Yield the options of a dataclass of settings, each followed by those of the settings that it may hold.

    Settings that a registered block has too are not repeated: the meaning names the block.
    """
    for option in own_options(settings):
        shown = None if option.inner is None else block_with(option.inner)
        meaning = option.meaning if shown is None else f"{option.meaning} Its options are those of `{shown}`."
        default = "its defaults" if shown is not None and option.default == "as below" else option.default
        yield dataclasses.replace(option, name=prefix + option.name, default=default, meaning=meaning)
        if option.inner is not None and shown is None:
            yield from options_of(option.inner, f"{prefix}{option.name}.")


def block_with(settings: type) -> str | None:
    """Return the name of the first registered block whose options are ``settings``; None if no block has them."""
    for registry in (STAGE, *REGISTRIES):
        for name, path in registry.members.items():
            if resolve(path).Settings is settings:
                return name
    return None


def plain_text(docstring: str) -> str:
    """Return a paragraph of a docstring as a person reads it in a terminal: no roles, no double quotes, ``null`` for None."""
    text = re.sub(r":\w+:`(?:~[\w.]*\.)?\.?([^`]+)`", r"`\1`", " ".join(docstring.split())).replace("``", "`")
    return re.sub(r"\bNone\b", "null", text)


def type_in_words(hint: Any) -> str:
    """Return the form that an annotation asks for, in words: ``list of numbers, or null``."""
    if get_origin(hint) is Annotated:
        plain, *marks = get_args(hint)
        named = next((mark.kind for mark in marks if isinstance(mark, Registered)), None)
        limit = any(isinstance(mark, LimitText) for mark in marks)
        return named or ("limit" if limit else type_in_words(plain))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _either([in_yaml(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        words = [type_in_words(kind) for kind in arguments if kind is not type(None)]
        return _either(words) + (", or null" if type(None) in arguments else "")
    if origin is None:
        known = "options" if dataclasses.is_dataclass(hint) else _TYPES.get(hint)
        return known or (hint.__name__ if isinstance(hint, type) else str(hint)).lower()
    if issubclass(origin, Mapping):
        return f"mapping of {_several(arguments[0])} to {_several(arguments[1])}"
    if issubclass(origin, Sequence):
        return f"list of {_several(arguments[0])}"
    return _TYPES.get(origin) or str(origin.__name__)


def _several(hint: Any) -> str:
    word = type_in_words(hint)
    plural = get_origin(hint) in (None, Annotated) and word not in ("text", "any value", "true or false")
    return f"{word}s" if plural else word


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _default(field: dataclasses.Field[Any], inner: Any) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    return "as below" if inner is not None and isinstance(value, inner) else in_yaml(value)


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


def description(member: Any) -> str:
    """Return the prose of a class's docstring: its paragraphs up to the first section, such as ``Args:``."""
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(member) or "")
    prose = []
    for paragraph in paragraphs:
        if re.match(r"[A-Z][\w ]*:\n", f"{paragraph}\n"):
            break
        prose.append(plain_text(paragraph))
    return "\n\n".join(prose)


def show_options(name: str, console: Console) -> None:
    """Print what :func:`options_by_kind` finds, as a table where it is wide enough, else an option below the other."""
    for kind, (member, options) in options_by_kind(name).items():
        console.print(f"{kind} {name}\n{description(member)}\n", markup=False, highlight=False)
        if not options:
            console.print("no options")
        elif console.width < _NARROW:
            _list_options(options, console)
        else:
            console.print(_options_table(options))


def _options_table(options: Sequence[Option]) -> Table:
    table = Table()
    table.add_column("option", overflow="fold")
    table.add_column("type", overflow="fold", ratio=2)
    table.add_column("default", overflow="fold", ratio=1)
    table.add_column("meaning", overflow="fold", ratio=4)
    for option in options:
        table.add_row(*map(escape, (option.name, option.type, option.default or "must be given", option.meaning)))
    return table


def _list_options(options: Sequence[Option], console: Console) -> None:
    for option in options:
        default = f"default {option.default}" if option.default else "must be given"
        console.print(f"{option.name}: {option.type}; {default}", markup=False, highlight=False)
        grid = Table.grid(padding=(0, 0, 0, 4))
        grid.add_row("", escape(option.meaning))
        console.print(grid)
