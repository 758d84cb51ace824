"""Digests of content inside the file that they protect: against damage, not against somebody who writes a new one."""

from __future__ import annotations

import re
from hashlib import blake2b

BLANK = "0" * 64
"""Text in the place of a digest while it is computed."""

_DIGEST = re.compile(rb"[0-9a-f]{64}")


def digest_of(*parts: bytes | memoryview) -> str:
    """Return the BLAKE2b hash of ``parts``, one after the other: 64 hexadecimal digits."""
    found = blake2b(digest_size=len(BLANK) // 2)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def fill(content: bytes, place: int) -> bytes:
    """Return ``content`` with its digest in the place of :data:`BLANK`, which stands ``place`` bytes from its beginning."""
    end = place + len(BLANK)
    return b"".join((content[:place], digest_of(content).encode(), memoryview(content)[end:]))


def stands_in(content: bytes, head: bytes, start: int = 0) -> bool:
    """Return True if ``content`` has a digest behind ``head``, which begins at byte ``start``: if either is there."""
    place = start + len(head)
    return content[start:place] == head or _DIGEST.match(content, place) is not None


def matches(content: bytes, place: int) -> bool:
    """Return True if the digest that stands ``place`` bytes from the beginning of ``content`` is that of all the rest."""
    view, end = memoryview(content), place + len(BLANK)
    return content[place:end] == digest_of(view[:place], BLANK.encode(), view[end:]).encode()
