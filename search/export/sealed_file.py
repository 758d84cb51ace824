"""Exported files that tell damage: a digest at the end of ONNX files, and the checksums that archives have anyway."""

from __future__ import annotations

import zipfile
from pathlib import Path

from spaces.files.digest import BLANK, fill, matches

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
"""Name of the file of each format."""

_KEY = b"secateurs_digest"
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12" + bytes([len(BLANK)]) + BLANK.encode()
_METADATA = b"\x72" + bytes([len(_ENTRY)]) + _ENTRY
"""One more ``metadata_props`` of a ModelProto: a protocol buffer goes on behind its end (field 14 of onnx.proto)."""


def seal(path: Path) -> None:
    """Append a digest to an ONNX file, as an entry of its metadata; an archive has its own."""
    if path.name == FILES["onnx"]:
        content = path.read_bytes() + _METADATA
        path.write_bytes(fill(content, len(content) - len(BLANK)))


def is_whole(path: Path) -> bool:
    """Return False for an exported file that is missing or damaged since it was sealed."""
    if not path.is_file():
        return False
    if path.name == FILES["onnx"]:
        content = path.read_bytes()
        return len(content) >= len(_METADATA) and matches(content, len(content) - len(BLANK))
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        return False
