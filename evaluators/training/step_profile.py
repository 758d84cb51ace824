"""Time of a training by the parts of a step."""

from __future__ import annotations

import time
from collections.abc import Mapping

PARTS = ("data", "forward", "backward", "optimizer")


class StepProfile:
    """Wall-clock seconds of all steps of a training: batches, forward, backward, and update of the weights.

    On an accelerator a part has the time until its work is queued, and the part that waits for the device has the rest.
    """

    def __init__(self) -> None:
        """Begin with no time."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._began = time.perf_counter()

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds by part, those from before a resume among them."""
        return self._seconds

    def restore(self, seconds: Mapping[str, float]) -> None:
        """Go on from the :attr:`seconds` of a saved training."""
        self._seconds.update(seconds)

    def start(self) -> None:
        """Leave out the time since the last call."""
        self._began = time.perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the last call to ``part``."""
        now = time.perf_counter()
        self._seconds[part] += now - self._began
        self._began = now
