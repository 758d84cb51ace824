"""Values as text of a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def in_yaml(value: Any) -> str:
    """Return a value as a configuration has it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{in_yaml(key)}: {in_yaml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_yaml, value))}]"
    if isinstance(value, str) and re.search(r"^$|[*<>:,#{}\[\]%&!]|^(true|false|null|on|off|yes|no)$", value):
        return f'"{value}"'
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
