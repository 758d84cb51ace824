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
