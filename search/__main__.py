"""``python -m search``: the command line, and how its errors leave it."""

# Nothing else is imported before the working folder is off the path, not even ``__future__``: it may hold any file.
import os
import sys


def main() -> None:
    """Run the command line; an error ends it with a message and no traceback: code 2 for a user's mistake, 70 for ours."""
    _leave_working_folder()
    try:
        from search.cli import app

        app(prog_name="python -m search")
    except Exception as error:
        code, text = _ending(error)
        sys.stderr.write(f"{text}\n")
        sys.exit(code)


def _ending(error: Exception) -> tuple[int, str]:
    try:
        from search.output.endings import ending

        return ending(error)
    except Exception:
        # Without memory or open files not even that can be imported.
        return 70, f"unexpected error: {type(error).__name__}: {error}".partition("\n")[0]


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
