"""Settings of the Ray executor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class RaySettings:
    """Settings of the Ray executor.

    Attributes:
        workers: Number of workers; null for as many as the cluster has room for, at any time.
        cpus_per_trial: CPUs that Ray sets aside for a worker; null for ``threads_per_trial``.
        gpus_per_trial: GPUs that Ray sets aside for a worker; a fraction lets several share one.
        address: null for a cluster of this machine alone, which nobody else can reach and which ends with the run; ``auto``
            for the cluster that runs here; or ``host:port``.
        retries: How often a trial is evaluated again after its worker was lost, before it counts as failed.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    workers: int | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float = 0.0
    address: str | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers: expected at least 1, or null for as many as there is room for, got {self.workers}")
        if self.cpus_per_trial is not None and not self.cpus_per_trial > 0:
            raise ValueError(f"cpus_per_trial: expected a number above 0, got {self.cpus_per_trial}")
        for name, amount in (("cpus_per_trial", self.cpus_per_trial or 0.0), ("gpus_per_trial", self.gpus_per_trial)):
            if amount > 1 and amount != int(amount):
                raise ValueError(f"{name}: expected a whole number above 1, as Ray asks for, got {amount}")
        if not self.gpus_per_trial >= 0:
            raise ValueError(f"gpus_per_trial: expected 0 or more, got {self.gpus_per_trial}")
        if self.address is not None and not re.fullmatch(r"auto|[\w.\-]+:\d+|\[[0-9a-fA-F:]+\]:\d+", self.address):
            raise ValueError(f"address: expected null, auto or host:port such as 10.0.0.1:6379, got {self.address!r}")
        if self.retries < 0:
            raise ValueError(f"retries: expected 0 or more, got {self.retries}")
