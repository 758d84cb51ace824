"""The shapes of saved weights against those of the network they are for, before memory is taken for either."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook

from search.trust.errors import UntrustedError
from search.trust.guard import guarded
from spaces.errors import SecateursError, error_line
from spaces.files.json_file import mapping, parse_json
from spaces.files.reading import FileError, shown

MAX_HEADER = 100 * 2**20
"""Largest header of a safetensors file, in bytes, as the format has it."""

MAX_GROWTH, FREE_BYTES = 256, 2**30
"""Bytes of the original network for each of the saved weights, and those that are free (ours: 1 of 8 channels, in 2 bits)."""

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32}
_BITS |= {"U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64}


@dataclass(frozen=True)
class Header:
    """Shapes and size of the tensors in a safetensors file, from its header.

    Attributes:
        shapes: Shape of each tensor, by name.
        size_bytes: Bytes of all tensors.
    """

    shapes: Mapping[str, tuple[int, ...]]
    size_bytes: int


def read_header(file: BinaryIO, name: str) -> Header:
    """Return the header of a safetensors file, and go back to its beginning.

    Raises:
        FileError: It is damaged, or does not fit the file's size; the message begins with ``name``.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise FileError(f"{name} is no safetensors file, or damaged: it has {size:,} bytes, its header {length:,}")
    entries = mapping(parse_json(file.read(length), name), name)
    entries.pop("__metadata__", None)
    shapes: dict[str, tuple[int, ...]] = {}
    total = 0
    for key, entry in entries.items():
        entry = mapping(entry, f"{name}: {key}")
        shape, kind = entry.get("shape"), entry.get("dtype")
        counts = isinstance(shape, list) and all(type(count) is int and 0 <= count < 2**48 for count in shape)
        if not isinstance(shape, list) or not counts or kind not in _BITS:
            raise FileError(f"{name}: {shown(key)}: expected a shape and a dtype, got {shown(shape)} and {shown(kind)}")
        shapes[key] = tuple(shape)
        total += math.prod(shape) * _BITS[str(kind)] // 8
    if total != size - 8 - length:
        raise FileError(
            f"{name} is cut or damaged: its header speaks of {total:,} bytes of tensors, it has {size - 8 - length:,}"
        )
    file.seek(0)
    return Header(shapes, total)


def require_same_shapes(model: nn.Module, header: Header, name: str) -> None:
    """Raise if the tensors of ``model`` are not those of a file, by name and shape.

    Raises:
        FileError: The message names the first tensor that differs.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    absent = [key for key in expected if key not in header.shapes]
    unknown = [key for key in header.shapes if key not in expected]
    differing = [key for key in expected if key in header.shapes and header.shapes[key] != expected[key]]
    words = [f"{key} is missing" for key in absent[:1]] + [f"{shown(key)} is not in the network" for key in unknown[:1]]
    words += [f"{key} has shape {header.shapes[key]}, the network's {expected[key]}" for key in differing[:1]]
    if words:
        raise FileError(f"the weights in {name} do not fit the network, was it changed? {'; '.join(words)}")


def check_on_meta(
    name: str, build: Callable[[], nn.Module], change: Callable[[nn.Module], nn.Module], header: Header, file: str
) -> None:
    """Build a network on the meta device, change its structure, and compare it with a file's header.

    Args:
        name: The factory, for messages.
        build: Returns the original network.
        change: Applies the recorded transformations.
        header: What the file holds.
        file: The file, for messages.

    Raises:
        UntrustedError: The factory can't run on the meta device.
        SecateursError: The network is another one than the file's, or far larger.
    """
    with guarded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"), _registrations(100 * len(header.shapes) + 10_000):
                model = build()
        except SecateursError:
            raise
        except Exception as error:
            raise UntrustedError(
                name,
                f"with these arguments it can't be built on the meta device, where shapes are checked before memory is "
                f"taken ({error_line(error)})",
            ) from error
        taken = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        if taken > MAX_GROWTH * header.size_bytes + FREE_BYTES:
            raise UntrustedError(name, f"it would take {taken:,} bytes for the {header.size_bytes:,} bytes of {file}")
        model = changed(model, change)
    require_same_shapes(model, header, file)


def changed(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return ``model`` with recorded transformations applied.

    Raises:
        SecateursError: They do not fit the network.
    """
    try:
        return change(model)
    except SecateursError:
        raise
    except Exception as error:
        raise FileError(
            f"architecture.json: the recorded transformations do not fit the network: {error_line(error)}"
        ) from error


@contextmanager
def _registrations(limit: int) -> Iterator[None]:
    """Stop a network that registers more modules and parameters than ``limit``, such as one of a billion layers."""
    count = 0

    def registered(module: nn.Module, name: str, member: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise FileError(
                f"architecture.json: the network has more than {limit:,} modules and parameters, far more than its weights"
            )

    hooks = [register_module_module_registration_hook(registered), register_module_parameter_registration_hook(registered)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
