"""``python -m search``: the command line, and how its errors leave it."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Run the command line; exit with code 2 and a message, without a traceback, on a mistake of the user."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    from search.cli import app
    from search.config.storage_url import hide_passwords
    from spaces.errors import SecateursError

    try:
        app(prog_name="python -m search")
    except SecateursError as error:
        sys.stderr.write(hide_passwords(f"{error}\n"))
        sys.exit(2)


if __name__ == "__main__":
    main()
