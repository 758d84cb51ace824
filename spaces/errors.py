"""Errors a user can cause, each saying what was expected, what came and what to do."""


class SecateursError(Exception):
    """A mistake in a configuration, a model or a data set; the command line shows it without a traceback."""


class InvalidCandidateError(SecateursError):
    """A decision is missing, unknown or outside its domain."""


class UnsupportedModelError(SecateursError):
    """The network cannot be compressed as asked: its forward pass fails, or nothing in it is open."""


class EquivalenceError(SecateursError):
    """The physically smaller network does not answer as the masked one does."""


class MissingLabelsError(SecateursError):
    """Class labels are needed and the task has none."""


class NetworkWarning(UserWarning):
    """A remark on a network: what of it was changed before it is compressed, or can't be vouched for."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without a full stop, at most 300 characters; its type if there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def error_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message: ``TypeError: forward() missing 1 argument``."""
    kind, line = type(error).__name__, first_line(error)
    return line if line == kind else f"{kind}: {line}"
