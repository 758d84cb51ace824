"""Errors of a training that a person can mend."""

from __future__ import annotations

from spaces.errors import SecateursError


class TrainingError(SecateursError):
    """A training cannot start, or not go on, with the given network, data and settings."""


class DivergedError(SecateursError):
    """The loss became infinite or not a number."""
