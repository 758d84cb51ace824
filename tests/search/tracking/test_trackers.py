"""The shipped trackers, with the real packages, offline: what they were told is read back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from search.config.registries import TRACKER
from search.tracking.base import TrackedRun, Tracker
from search.tracking.mlflow import MLflowSettings
from search.tracking.trackers import Trackers

CONFIG = {"name": "tiny", "seed": 3, "stages": [{"search": {"target": {"macs": "<= 40%"}}}]}
REPORT: dict[str, Any] = {
    "reference": {"top1": 0.9, "macs": 100.0},
    "result": {"top1": 0.875, "macs": 40.0, "loss": float("nan"), "metrics": {"agreement": 0.75}},
    "baselines": {"uniform": {"top1": 0.8, "macs": 40.0}},
}


def told(name: str, folder: Path, options: Mapping[str, Any] | None = None) -> None:
    """Tell a tracker of a run that is stopped after a trial, and goes on to its end."""
    (folder / "best").mkdir(parents=True)
    (folder / "report.json").write_text("{}")
    for resumed in (False, True):
        trackers = Trackers([TRACKER.build(TRACKER.parse({name: options or {}}))], fail)
        with trackers.following(TrackedRun("tiny", "0123abcd", folder, resumed, CONFIG)):
            if not resumed:
                trackers.stage("0-train")
                trackers.epoch("0-train", 1, {"loss": 1.5, "top1": 0.5})
                trackers.epoch("0-train", 2, {"loss": 1.0, "top1": float("nan")})
            else:
                trackers.stage("1-search (uniform)")
                trackers.trial("1-search (uniform)", 0, {"top1": 0.625})
                trackers.result(REPORT, folder)
        assert trackers.open


def fail(text: str) -> None:
    raise AssertionError(text)


def test_tensorboard_has_the_scalars(tmp_path: Path) -> None:
    told("tensorboard", tmp_path / "tiny")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tiny" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("0-train/loss")] == [(1, 1.5), (2, 1.0)]
    assert [event.step for event in events.Scalars("0-train/top1")] == [1]
    assert events.Scalars("1-search (uniform)/top1")[0].value == 0.625
    assert events.Scalars("result/reference/macs")[0].value == 100.0
    assert "result/loss" not in events.Tags()["scalars"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of the package's own database.
def test_mlflow_has_one_run_with_parameters_metrics_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told("mlflow", tmp_path / "tiny", {"experiment": "mine"})
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "tiny"
    assert found.data.params["stages.0.search.target.macs"] == "<= 40%"
    assert [(entry.step, entry.value) for entry in client.get_metric_history(found.info.run_id, "0-train/loss")] == [
        (1, 1.5),
        (2, 1.0),
    ]
    assert found.data.metrics["1-search/uniform/top1"] == 0.625
    assert found.data.metrics["result/agreement"] == 0.75
    assert [entry.path for entry in client.list_artifacts(found.info.run_id)] == ["report.json"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of the package's own.
def test_weights_and_biases_keeps_the_run_for_later(tmp_path: Path) -> None:
    told("wandb", tmp_path / "tiny", {"mode": "offline"})
    kept = list((tmp_path / "tiny" / "wandb").glob("offline-run-*/run-0123abcd.wandb"))
    assert kept
    content = b"".join(path.read_bytes() for path in kept)
    assert all(name in content for name in (b"0-train/loss", b"1-search (uniform)/top1", b"reference/macs", b"0.625"))


def test_a_password_in_an_address_is_refused_before_a_run_folder_keeps_it() -> None:
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD") as raised:
        TypeAdapter(MLflowSettings).validate_python({"uri": "https://me:hunter2@host/mlflow"})
    assert "without a password" in str(raised.value)


@pytest.mark.parametrize("name", TRACKER.members)
def test_a_package_is_imported_when_a_run_begins_and_not_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, "mlflow.tracking", "torch.utils.tensorboard.writer"):
        monkeypatch.setitem(sys.modules, module, None)
    lines: list[str] = []
    tracker: Tracker[Any] = TRACKER.build(TRACKER.parse(name))
    trackers = Trackers([tracker], lines.append)
    with trackers.following(TrackedRun("tiny", "0123abcd", tmp_path, False, CONFIG)):
        trackers.epoch("0-train", 1, {"loss": 1.0})
    assert len(lines) == 1
    assert type(tracker).__name__ in lines[0]
