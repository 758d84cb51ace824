"""Stubs: what stands in the place of a removed module, and returns outputs of the same structure at no cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spaces.files.reading import shown
from spaces.records import RecordError, entries, integer, items
from spaces.residual.zero import Zero

Path = int | str
"""Place of an argument: its position or its keyword."""

DEEPEST, LARGEST = 8, 2**31 - 1
"""Most nested structures of outputs, and the largest recorded size of a dimension (ours)."""

PLAIN = (bool, int, float, str, type(None))
"""Types of values that a stub keeps and returns as they are."""


class Stub(nn.Module):
    """Stands for a removed module: zeros that are not there, None, numbers, and inputs that pass through.

    Args:
        outputs: Structure of the outputs, as JSON data: ``{"zero": sizes}``, where each size is a number or ``[argument,
            dimension]``; ``{"input": argument}``; ``{"value": number}``; ``{"tuple": [...]}``, ``{"list": [...]}`` or
            ``{"mapping": {...}}``.
        keeps: Numbers, flags and texts that the module had as attributes, which code around it may read.
        parameters: Names of its parameters and buffers; each is None.
    """

    def __init__(self, outputs: Mapping[str, Any], keeps: Mapping[str, Any], parameters: tuple[str, ...]) -> None:
        """Keep the structure, and the attributes that code may read."""
        super().__init__()
        for name, value in keeps.items():
            setattr(self, name, value)
        for name in parameters:
            self.register_parameter(name, None)
        self._outputs = outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs."""
        given: dict[Path, Any] = dict(enumerate(args))
        given.update(kwargs)
        like = next((value for value in given.values() if isinstance(value, Tensor | Zero)), None)
        return _made(self._outputs, given, torch.empty(0) if like is None else like)

    def extra_repr(self) -> str:
        """Return nothing: a stub has no options."""
        return ""


def _made(spec: Mapping[str, Any], given: Mapping[Path, Any], like: Tensor | Zero) -> Any:
    ((kind, content),) = spec.items()
    if kind == "zero":
        if not like.dtype.is_floating_point:
            like = torch.empty(0, device=like.device)
        made = Zero([_size(size, given) for size in content], like)
        return made.tensor() if torch.compiler.is_dynamo_compiling() else made
    if kind == "input":
        return given.get(content, next(iter(given.values()), None))
    if kind == "value":
        return content
    if kind == "mapping":
        return {name: _made(one, given, like) for name, one in content.items()}
    found = [_made(one, given, like) for one in content]
    return tuple(found) if kind == "tuple" else found


def _size(size: Any, given: Mapping[Path, Any]) -> Any:
    if isinstance(size, int):
        return size
    path, dim, usual = size
    source = given.get(path)
    known = isinstance(source, Tensor | Zero) and -len(source.shape) <= dim < len(source.shape)
    return source.shape[dim] if known else usual  # type: ignore[union-attr]


def stub_of(record: Mapping[str, Any], where: str) -> Stub:
    """Return the stub of a record: ``outputs``, ``keeps`` and ``parameters``, the arguments of :class:`Stub`.

    Raises:
        RecordError: The record is not of that form; the message begins with ``where``.
    """
    outputs = entries(record, "outputs", where)
    _check(outputs, f"{where}: outputs", 0)
    keeps = entries(record, "keeps", where)
    parameters = items(record, "parameters", where)
    for name, value in keeps.items():
        if not isinstance(value, PLAIN) or not _free(name):
            raise RecordError(f"{where}: keeps: expected plain values of attributes, got {shown(name)}: {shown(value)}")
    for name in parameters:
        if not isinstance(name, str) or not _free(name) or name in keeps:
            raise RecordError(f"{where}: parameters: expected names of parameters, got {shown(name)}")
    return Stub(outputs, keeps, tuple(parameters))


def _free(name: str) -> bool:
    """Return True for the name of an attribute that a module has not by itself."""
    return name.isidentifier() and not name.startswith("_") and name not in _TAKEN


_TAKEN = frozenset(dir(nn.Module())) | {"forward"}


def _check(spec: Any, where: str, depth: int) -> None:
    if not isinstance(spec, Mapping) or len(spec) != 1 or depth > DEEPEST:
        raise RecordError(f"{where}: expected an object of one kind of output, got {shown(spec)}")
    ((kind, content),) = spec.items()
    if kind == "zero" and isinstance(content, list | tuple):
        for size in content:
            if isinstance(size, list | tuple) and len(size) == 3 and _is_path(size[0]):
                integer(size[1], 0, 100, where)
                integer(size[2], 0, LARGEST, where)
            else:
                integer(size, 0, LARGEST, where)
    elif kind == "mapping" and isinstance(content, Mapping):
        for one in content.values():
            _check(one, where, depth + 1)
    elif kind in ("tuple", "list") and isinstance(content, list | tuple):
        for one in content:
            _check(one, where, depth + 1)
    elif not (kind == "input" and _is_path(content)) and not (kind == "value" and isinstance(content, PLAIN)):
        raise RecordError(f"{where}: expected a kind of output, got {shown(spec)}")


def _is_path(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and 0 <= value < 100)
