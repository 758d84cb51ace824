"""File names made from names that somebody else may have chosen."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 100
"""Longest name that is kept whole, in characters (ours: file systems allow 255 bytes)."""


def safe_file_name(name: str) -> str:
    """Return ``name`` as one file name: letters, digits, ``_``, ``-`` and inner dots; others become ``_``.

    A name that had to be changed ends with a hash of the whole, so that two names never become one file.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name[:_LONGEST]).strip(".")
    if plain == name and plain:
        return name
    return f"{plain or 'unnamed'}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
