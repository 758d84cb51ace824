"""Weights & Biases: a run of a project, sent at once or kept in the run folder for ``wandb sync``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from search.tracking.base import TrackedRun, Tracker


@dataclass(frozen=True)
class WeightsAndBiasesSettings:
    """Options of the tracker.

    Attributes:
        project: Name of the project.
        entity: Name of the account or team; null for the account's own default.
        mode: ``online`` sends events at once, to the account that ``wandb login`` knows; ``offline`` keeps them in the run
            folder.
        files: Upload report and weights when the run has ended.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    project: str = "secateurs"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    files: bool = True


class WeightsAndBiases(Tracker[WeightsAndBiasesSettings]):
    """Charts by stage, over epochs and trials; the result is the run's summary."""

    Settings = WeightsAndBiasesSettings

    def begin(self, run: TrackedRun) -> None:
        """Open the run, or go on with the one of the same identifier."""
        import wandb

        self._run: Any = wandb.init(
            project=self.settings.project,
            entity=self.settings.entity,
            name=run.name,
            id=run.run_id,
            resume="allow",
            mode=self.settings.mode,
            dir=str(run.folder),
            config=dict(run.config),
            settings=wandb.Settings(silent=True, disable_git=True, disable_code=True, console="off"),
        )

    def stage(self, label: str) -> None:
        """Give the charts of a stage an axis of their own."""
        self._run.define_metric(f"{label}/*", step_metric=f"{label}/step")

    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Log values over epochs."""
        self._log(label, number, values)

    def trial(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Log values over trials."""
        self._log(label, number, values)

    def result(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write the numbers into the summary, and upload the files."""
        self._run.summary.update(dict(values))
        for path in files if self.settings.files else ():
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, failed: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=1 if failed else 0)

    def _log(self, label: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{label}/step": step, **{f"{label}/{name}": value for name, value in values.items()}})
