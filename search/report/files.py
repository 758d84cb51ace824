"""The files that a run delivers, each with its own size, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.output.numbers import format_bytes


def files_text(report: Mapping[str, Any]) -> str:
    """Return a sentence on the size of every file in ``best/``; empty where nothing was exported."""
    files: Mapping[str, int] = report.get("files") or {}
    if len(files) < 2:
        return ""
    sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in files.items())
    packed = ", and holds weights of few bits in a form of its own, such as whole bytes" if report.get("bits") else ""
    return (
        f"Files on disk: {sizes}. The size in the table is that of the tensors in weights.safetensors; an exported file has "
        f"the network's graph besides{packed}."
    )
