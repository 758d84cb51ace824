"""MLflow: a run of an experiment, on a server or in a database beside the run folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from search.tracking.base import TrackedRun, Tracker
from search.tracking.trackers import flattened

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TAG = "secateurs.run_id"
"""Tag by which a resumed run finds its entry."""

LONGEST = 500
"""Most characters of a parameter's value that every version of the server takes."""

PARAMETERS = 100
"""Most parameters that a server takes at a time."""


@dataclass(frozen=True)
class MLflowSettings:
    """Options of the tracker.

    Attributes:
        uri: Address of the server, ``http://HOST:PORT``, or of a database; null for what the environment variable
            ``MLFLOW_TRACKING_URI`` says, and without it for ``mlflow.db`` beside the run folder.
        experiment: Name of the experiment, made where there is none.
        files: Upload report and weights when the run has ended.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    uri: str | None = None
    experiment: str = "secateurs"
    files: bool = True

    def __post_init__(self) -> None:
        """Refuse an address with a password, which the run folder would keep.

        Raises:
            ValueError: It has one.
        """
        if self.uri is not None and urlsplit(self.uri).password is not None:
            raise ValueError(
                "uri: expected an address without a password, which the run folder would keep; leave it out, and set "
                "MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


class MLflow(Tracker[MLflowSettings]):
    """Parameters are the configuration, metrics those of epochs and trials by stage, and of the result."""

    Settings = MLflowSettings

    def begin(self, run: TrackedRun) -> None:
        """Open the run, or the one with the same identifier."""
        from mlflow.tracking import MlflowClient

        beside = run.folder.absolute().parent
        address = self.settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._client: MlflowClient = MlflowClient(address or f"sqlite:///{beside / 'mlflow.db'}")
        known = self._client.get_experiment_by_name(self.settings.experiment)
        if known is None:
            place = None if address else (beside / "mlflow_artifacts").as_uri()
            experiment = self._client.create_experiment(self.settings.experiment, artifact_location=place)
        else:
            experiment = known.experiment_id
        found = self._client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{run.run_id}'")
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=run.name, tags={TAG: run.run_id}).info.run_id
        self._parameters(run)

    def _parameters(self, run: TrackedRun) -> None:
        from mlflow.entities import Param

        entries = [Param(path, text[:LONGEST]) for path, text in flattened(run.config)]
        for start in range(0, len(entries), PARAMETERS):
            self._client.log_batch(self._run, params=entries[start : start + PARAMETERS])

    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Log metrics over epochs."""
        self._metrics(label, number, values)

    def trial(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Log metrics over trials."""
        self._metrics(label, number, values)

    def result(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the numbers as metrics, and upload the files."""
        self._metrics("result", 0, values)
        for path in files if self.settings.files else ():
            self._client.log_artifact(self._run, str(path))

    def close(self, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")

    def _metrics(self, label: str, step: int, values: Mapping[str, float]) -> None:
        # Names of metrics hold no parentheses, which a stage's label has for a baseline.
        label = label.replace(" (", "/").replace(")", "")
        for name, value in values.items():
            self._client.log_metric(self._run, f"{label}/{name}", value, step=step)
