"""The section on answers: accuracy by class, confusions, and samples on which the networks before and after disagree."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.output.numbers import format_percent
from search.report.view import Row

MOST_CLASSES = 30
"""Classes in the table: of more, those whose accuracy changed most."""
MOST_PIXELS = 64
"""Height and width of a picture that is shown, at most."""


@dataclass(frozen=True)
class ShownSample:
    """A sample whose answer changed.

    Attributes:
        words: Its number in the test split, its class, and both answers.
        right: True if the answer became right, False if it became wrong.
        source: The picture as the source of an ``img``; empty for none.
    """

    words: str
    right: bool
    source: str


def answer_section(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return texts, rows and samples of the section; None for a report without answers."""
    found: Mapping[str, Any] | None = report.get("answers")
    if not found or not found.get("classes"):
        return None
    names = found.get("names") or []
    samples = sum(entry["samples"] for entry in found["classes"])
    changed = found["became_wrong"] + found["became_right"] + found["other"]
    answers = "answer" if changed == 1 else "answers"
    text = (
        f"Of {samples:,} test samples {found['became_wrong']:,} were right before and are wrong now, {found['became_right']:,} "
        f"the other way round; {changed:,} {answers} changed in all ({format_percent(changed / samples)})."
    )
    return {
        "text": text,
        "classes": class_rows(found["classes"], names),
        "left_out": max(0, len(found["classes"]) - MOST_CLASSES),
        "confusions": [
            Row(
                f"{_name(entry['label'], names)} taken for {_name(entry['guess'], names)}",
                (str(entry["before"]), str(entry["after"]), _signed(entry)),
            )
            for entry in found.get("confusions") or []
        ],
        "samples": [_shown(entry, names) for entry in found.get("samples") or []],
    }


def class_rows(classes: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> list[Row]:
    """Return a row per class with samples: their number, the share that was right before and is now, and the change."""
    known = [entry for entry in classes if entry["samples"]]
    most = sorted(known, key=lambda entry: -abs(entry["after"] - entry["before"]) / entry["samples"])[:MOST_CLASSES]
    labels = {entry["label"] for entry in most}
    rows = []
    for entry in known:
        if entry["label"] in labels:
            before, after = (entry[when] / entry["samples"] for when in ("before", "after"))
            change = f"{100 * (after - before):+.2f} points"
            rows.append(
                Row(
                    _name(entry["label"], names), (str(entry["samples"]), format_percent(before), format_percent(after), change)
                )
            )
    return rows


def _signed(entry: Mapping[str, Any]) -> str:
    return f"{entry['after'] - entry['before']:+d}"


def _name(label: int, names: Sequence[str]) -> str:
    """Return the name of a class, or its number where it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def _shown(entry: Mapping[str, Any], names: Sequence[str]) -> ShownSample:
    label, before, after = (_name(entry[key], names) for key in ("label", "before", "after"))
    words = f"sample {entry['index']}, class {label}: {before} before, {after} now"
    return ShownSample(words, entry["after"] == entry["label"], picture_source(entry.get("picture")))


def picture_source(picture: Mapping[str, Any] | None) -> str:
    """Return a small picture of :func:`.small_picture` as a PNG in a data URL; empty for none, and for one that is damaged."""
    if not picture:
        return ""
    height, width, channels = (picture.get(key) for key in ("height", "width", "channels"))
    if not (isinstance(height, int) and isinstance(width, int) and channels in (1, 3)):
        return ""
    if not (1 <= height <= MOST_PIXELS and 1 <= width <= MOST_PIXELS):
        return ""
    try:
        data = base64.b64decode(str(picture.get("data")), validate=True)
    except binascii.Error:
        return ""
    if len(data) != height * width * channels:
        return ""
    row = width * channels
    lines = b"".join(b"\0" + data[start : start + row] for start in range(0, len(data), row))
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines)), _chunk(b"IEND", b"")]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
