"""Results of long tests, a line of JSON each: kept when the test is killed, so that it goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def known(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return the results so far, by their field ``key``; a line that a kill cut off is no result."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row[key]] = row
    return found
