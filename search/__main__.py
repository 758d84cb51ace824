"""``python -m search``: the command line, and how its errors leave it."""

# Nothing else is imported before the working folder is off the path, not even ``__future__``: it may hold any file.
import os
import sys


def main() -> None:
    """Run the command line; exit with code 2 and a message, without a traceback, on a mistake of the user."""
    _leave_working_folder()
    from search.cli import app
    from search.config.storage_url import hide_passwords
    from spaces.errors import SecateursError

    try:
        app(prog_name="python -m search")
    except SecateursError as error:
        sys.stderr.write(hide_passwords(f"{error}\n"))
        sys.exit(2)


def _leave_working_folder() -> None:
    """Take the working folder off the path, where ``python -m`` puts it first; commands that need it put it last.

    A checkout that is not installed is found in the working folder alone: it goes last too.
    """
    here = os.getcwd()  # noqa: PTH109
    if sys.path and sys.path[0] in ("", here):
        del sys.path[0]
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    if home not in sys.path:
        sys.path.append(home)


if __name__ == "__main__":
    main()
