"""Configuration text as plain data that remembers where in the file every value stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from search.config.storage_url import hide_passwords
from spaces.errors import SecateursError

Key = str | int
Path = tuple[Key, ...]

_KINDS: dict[type[yaml.Node], tuple[str, ...]] = {
    yaml.MappingNode: ("map",),
    yaml.SequenceNode: ("seq",),
    yaml.ScalarNode: ("str", "int", "float", "bool", "null"),
}
_MAX_BYTES = 1 << 20
_MAX_NODES = 100_000


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


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: ``5e-4`` is a number; ``off``, ``1:30``, ``010`` and dates are no traps."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _resolve(tag: str, pattern: str, first: str) -> None:
    for character in first:
        entry = (f"tag:yaml.org,2002:{tag}", re.compile(pattern))
        _Loader.yaml_implicit_resolvers.setdefault(character, []).append(entry)


_resolve("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_resolve("null", r"^(?:~|null|Null|NULL)$", "~nN")
_resolve("int", r"^[-+]?[0-9][0-9_]*$", "-+0123456789")
_resolve("float", r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$", "-+0123456789.")
_resolve("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+.")
_resolve("merge", r"^<<$", "<")
_Loader.yaml_implicit_resolvers[""] = [("tag:yaml.org,2002:null", re.compile(r"^$"))]


def parse_value(text: str) -> Any:
    """Return the plain data of one YAML value, as an override gives it.

    Raises:
        ValueError: ``text`` is not one YAML value.
    """
    faults: list[Fault] = []
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return None
        value = _Reader(faults).read(node, ())
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not YAML ({_first_line(error)}); put it in quotes") from None
    if faults:
        raise ValueError(faults[0].message)
    return value


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
    faults: list[Fault] = []
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        origin = f"line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(source, [Fault((), f"not valid YAML: {_first_line(error)}", origin)]) from None
    if node is None:
        raise refuse("is empty; expected at least `name`, `task` and `stages`")
    if not isinstance(node, yaml.MappingNode):
        raise refuse("expected a mapping with `name`, `task` and `stages` at the top")
    reader = _Reader(faults)
    data = reader.read(node, ())
    if faults:
        raise ConfigError(source, faults)
    return Document(source, data, reader.origins)


def _first_line(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    return str(problem or error).splitlines()[0]


class _Reader:
    """Turns a node tree into plain data, noting where each value stands and what is wrong with it."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.origins: dict[Path, str] = {}
        self._open: set[int] = set()
        self._count = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.origins.setdefault(path, _line(node))
        self._count += 1
        if id(node) in self._open or self._count > _MAX_NODES:
            return self._refuse(path, node, "this alias refers to itself or unfolds too far")
        self._open.add(id(node))
        try:
            if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in _KINDS[type(node)]:
                return self._refuse(path, node, f"tag {node.tag!r} is not allowed here; expected a plain value")
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
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
            if not isinstance(key_node, yaml.ScalarNode):
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

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        kind, value = node.tag.rpartition(":")[2], str(node.value)
        try:
            if kind == "int":
                return int(value.replace("_", ""))
            if kind == "float":
                return float(_float_text(value))
        except ValueError:
            return self._refuse(path, node, f"{value!r} is not a value of YAML type {kind}")
        if kind == "bool":
            return value.lower() == "true"
        return None if kind == "null" else value

    def _refuse(self, path: Path, node: yaml.Node, message: str) -> None:
        self.faults.append(Fault(path, message, _line(node)))


def _float_text(text: str) -> str:
    """Return YAML's notation of a number in Python's."""
    return text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
