"""An evaluator of the user's own that takes its time, so that there is a moment to be killed in; it uses no CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from evaluators.base import EvaluationContext, Evaluator, Metric


@dataclass(frozen=True)
class PauseSettings:
    """How long every evaluation takes at the least."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    seconds: float = 0.05


class Pause(Evaluator):
    """Measures nothing."""

    Settings: ClassVar[type[PauseSettings]] = PauseSettings

    def __init__(self, settings: PauseSettings) -> None:
        self.settings = settings

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        time.sleep(self.settings.seconds)
        return {}
