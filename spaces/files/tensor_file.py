"""Safetensors files with a digest in their metadata, over header and tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from spaces.files.atomic import replace_file
from spaces.files.digest import BLANK, fill, matches, stands_in
from spaces.files.reading import DamagedFileError

_METADATA = b'{"__metadata__":{'
_HEAD = b'"digest":"'
_PLACE = 8 + len(_METADATA) + len(_HEAD)
_FORMAT = {"format": "pt"}
"""Metadata of files without data, which other programs look for."""


def pack_tensors(tensors: Mapping[str, Tensor], data: Mapping[str, Any] | None = None) -> bytes:
    """Return a safetensors file of ``tensors``, with a digest and JSON ``data`` in its metadata.

    Equal tensors and data give equal bytes; tensors that share storage are written once each.
    """
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One entry at a time: safetensors writes several in an order of chance.
    content = safetensors.torch.save(separate, _FORMAT if data is None else {"data": json.dumps(dict(data))})
    length = int.from_bytes(content[:8], "little")
    header = _METADATA + _HEAD + BLANK.encode() + b'",' + content[8 + len(_METADATA) : 8 + length].rstrip(b" ")
    header += b" " * (-len(header) % 8)
    return fill(b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[8 + length :])), _PLACE)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], data: Mapping[str, Any] | None = None) -> None:
    """Replace the safetensors file ``path``, with a digest and JSON ``data`` in it."""
    replace_file(path, pack_tensors(tensors, data))


def unpack_tensors(content: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the data of a file of :func:`pack_tensors`; no data for a file without.

    A file without a digest is one of an earlier version, or of another program.

    Raises:
        DamagedFileError: It is damaged, or no safetensors file; the message begins with ``name``.
    """
    require_intact(content, name)
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        data = json.loads(header.get("__metadata__", {}).get("data", "{}"))
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError, OverflowError) as error:
        raise DamagedFileError(f"{name} is no safetensors file, or damaged ({error})") from None
    if not isinstance(data, dict):
        raise DamagedFileError(f"{name}: data: expected a JSON object, got a {type(data).__name__}")
    return tensors, data


def require_intact(content: bytes, name: str) -> None:
    """Raise unless a safetensors file is as it was written; one without a digest passes.

    Raises:
        DamagedFileError: The message begins with ``name``.
    """
    if is_digested(content) and not matches(content, _PLACE):
        raise DamagedFileError(f"{name} is damaged: its content does not match the digest in it")


def is_digested(content: bytes) -> bool:
    """Return True for a safetensors file with a digest."""
    return stands_in(content, _METADATA + _HEAD, 8)
