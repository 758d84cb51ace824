"""Configuration text as plain data that remembers where in the file every value stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path as FilePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, Event, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.parser import Parser

from search.config.storage_url import hide_passwords
from spaces.errors import SecateursError

Key = str | int
Path = tuple[Key, ...]

# Plain text that YAML could read as a date, as `=` or as `<<` stays text.
_TEXT = ("str", "timestamp", "value", "merge")
_KINDS: dict[type[Node], tuple[str, ...]] = {
    MappingNode: ("map",),
    SequenceNode: ("seq",),
    ScalarNode: (*_TEXT, "int", "float", "bool", "null"),
}
LARGEST_NUMBER = 2**63 - 1
"""Largest whole number of a configuration; beyond it neither torch nor SQLite takes one."""

_MAX_BYTES = 1 << 20
_MAX_VALUES = 20_000
_MAX_DEPTH = 50
_TOO_DEEP = f"nested more than {_MAX_DEPTH} deep; a configuration needs about ten"
_TOO_MANY = f"more than {_MAX_VALUES} keys and values; a configuration is a short YAML file"


@dataclass(frozen=True)
class Fault:
    """One mistake: its dotted path, a message, and the place in the file (``line 3``)."""

    path: Path
    message: str
    origin: str = ""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.origin, dotted(self.path)) if part)
        return f"{where}: {self.message}" if where else self.message


class ConfigError(SecateursError):
    """A configuration that cannot be run, with every fault found in it.

    Attributes:
        source: The file's name.
        faults: The mistakes, in the order of the file.
    """

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        super().__init__(hide_passwords("\n".join([f"{source}: {count}", *(f"  {fault}" for fault in faults)])))


@dataclass
class Document:
    """Plain data (mappings, lists, scalars) with the place of every value in the file.

    Attributes:
        source: The file's name, for messages.
        data: The data itself.
        origins: Place of each path: ``line 3`` or ``override seed=1``.
    """

    source: str
    data: dict[str, Any]
    origins: dict[Path, str] = field(default_factory=dict)

    def origin(self, path: Path) -> str:
        """Return the place of ``path``, else of the nearest entry that contains it; empty where none is known."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return ""

    def fault(self, path: Path, message: str) -> Fault:
        """Return a mistake at ``path`` with its origin."""
        return Fault(path, message, self.origin(path))


def dotted(path: Path) -> str:
    """Return a path as a person writes it: ``stages.2.search.algorithm``."""
    return ".".join(str(key) for key in path)


def parse_value(text: str) -> Any:
    """Return the plain data of one YAML value, as an override or a stored configuration gives it.

    Raises:
        ValueError: ``text`` is not one YAML value.
    """
    reader = _Reader()
    try:
        node = _compose(text)
        value = None if node is None else reader.read(node, ())
    except YAMLError as error:
        reason = _problem(error).removeprefix("not valid YAML: ")
        raise ValueError(f"{_short(text)} is not YAML ({reason}); put it in quotes") from None
    if reader.faults:
        raise ValueError(reader.faults[0].message)
    return value


def to_yaml(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML that :func:`parse_value` reads to the same, keys in their order."""
    yaml = _yaml()
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = StringIO()
    yaml.dump(dict(data), stream)
    return stream.getvalue()


def read_document(path: FilePath) -> Document:
    """Read a configuration file.

    Raises:
        ConfigError: The file is missing, unreadable, no text, no YAML, empty or not a mapping; or has duplicate keys.
    """
    source = str(path)

    def refuse(message: str) -> ConfigError:
        return ConfigError(source, [Fault((), message)])

    try:
        if path.is_dir():
            raise refuse("is a folder; expected a YAML file")
        size = path.stat().st_size
        raw = path.read_bytes() if size <= _MAX_BYTES else b""
    except FileNotFoundError:
        near = sorted(str(other) for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"; {path.parent} has: {', '.join(near)}" if near else ""
        raise refuse(f"there is no such file{hint}") from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from None
    if size > _MAX_BYTES:
        raise refuse(f"has {size} bytes; a configuration is a short YAML file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise refuse("is not a text file in UTF-8; expected a YAML file") from None
    reader = _Reader()
    try:
        node = _compose(text)
        data = reader.read(node, ()) if isinstance(node, MappingNode) else {}
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        raise ConfigError(source, [Fault((), _problem(error), f"line {mark.line + 1}" if mark else "")]) from None
    if node is None:
        raise refuse("is empty; expected at least `name`, `task` and `stages`")
    if not isinstance(node, MappingNode):
        raise refuse("expected a mapping with `name`, `task` and `stages` at the top")
    if reader.faults:
        raise ConfigError(source, reader.faults)
    return Document(source, data, reader.origins)


class _LimitError(MarkedYAMLError):
    """YAML that is larger or deeper than any configuration."""


class _BoundedParser(Parser):
    """Parser that refuses YAML larger or deeper than any configuration before a tree is made of it."""

    def __init__(self, loader: YAML) -> None:
        super().__init__(loader)
        self._depth = self._count = 0

    def get_event(self) -> Event:
        """Return the next event of the text.

        Raises:
            _LimitError: The text is nested too deep or has too many values.
        """
        event: Event = super().get_event()
        self._count += isinstance(event, NodeEvent)
        self._depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if self._depth > _MAX_DEPTH or self._count > _MAX_VALUES:
            raise _LimitError(problem=_TOO_DEEP if self._depth > _MAX_DEPTH else _TOO_MANY, problem_mark=event.start_mark)
        return event


def _yaml() -> YAML:
    """Return a reader and writer of YAML 1.2: ``5e-4`` is a number; ``off``, ``1:30`` and ``010`` are no traps."""
    return YAML(typ="safe", pure=True)


def _compose(text: str) -> Node | None:
    """Return the node tree of ``text``, None for an empty one.

    Raises:
        YAMLError: ``text`` is not one YAML value, or is nested too deep or too long to be composed.
    """
    yaml = _yaml()
    yaml.Parser = _BoundedParser
    yaml.composer.warn_double_anchors = False
    return yaml.compose(text)  # type: ignore[no-any-return]


def _problem(error: YAMLError) -> str:
    """Return the first line of a YAML error."""
    problem = str((isinstance(error, MarkedYAMLError) and error.problem) or error).splitlines()[0]
    return problem if isinstance(error, _LimitError) else f"not valid YAML: {problem}"


class _Reader:
    """Converter of a node tree into plain data, with the place and the faults of every value.

    Attributes:
        faults: Faults found so far.
        origins: Place of each path read so far.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.origins: dict[Path, str] = {}
        self._open: set[int] = set()
        self._count = 0
        self._scalars = _yaml().constructor

    def read(self, node: Node, path: Path) -> Any:
        """Return the plain data of ``node``, which stands at ``path``; None for a faulty one."""
        self.origins.setdefault(path, _line(node))
        self._count += 1
        if id(node) in self._open:
            return self._refuse(path, node, "this alias refers to itself")
        if self._count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise _LimitError(problem=_TOO_MANY if self._count > _MAX_VALUES else _TOO_DEEP, problem_mark=node.start_mark)
        prefix, _, kind = str(node.tag).rpartition(":")
        if prefix != "tag:yaml.org,2002" or kind not in _KINDS[type(node)]:
            return self._refuse(path, node, f"tag {node.tag!r} is not allowed here; expected a plain value")
        if isinstance(node, ScalarNode):
            return str(node.value) if kind in _TEXT else self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                content = self.read(value_node, path)
                for part in content if isinstance(content, list) else [content]:
                    if isinstance(part, Mapping):
                        merged = {**part, **merged}
                    else:
                        self._refuse(path, key_node, "`<<` expects a mapping")
                continue
            if not isinstance(key_node, ScalarNode):
                self._refuse(path, key_node, "a key must be a name")
                continue
            key = str(key_node.value)
            below = (*path, key)
            if key in result:
                self._refuse(below, key_node, f"duplicate key {key!r}; it already stands in {self.origins[below]}")
                continue
            self.origins[below] = _line(key_node)
            result[key] = self.read(value_node, below)
        return {**merged, **result}

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        try:
            value = self._scalars.construct_object(node)
        except (ValueError, KeyError, YAMLError):
            return self._refuse(path, node, f"{_short(node.value)} is not a value of type {node.tag}")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            return self._refuse(path, node, f"expected a whole number of at most 64 bits, got {_short(node.value)}")
        return value

    def _refuse(self, path: Path, node: Node, message: str) -> None:
        self.faults.append(Fault(path, message, _line(node)))


def _line(node: Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
