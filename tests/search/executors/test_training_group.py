"""A group of training workers on a real cluster: the same end, whoever is lost on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.tasks.settings import build_task
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.loop import DivergedError, EpochRecord, train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from search.config.loading import Execution
from search.config.registries import EXECUTOR
from search.executors.group_executor import training_group
from search.executors.group_training import PackedTraining, packed
from search.executors.training_group import LostGroupError
from search.run.network import Network
from tests.processes import processes
from tests.search.executors.digits_search import TASK

pytestmark = pytest.mark.slow
SETTINGS = TrainingSettings(epochs=4, batch_size=50, optimizer=OptimizerSettings(lr=0.05), autocast="off")


def execution(**options: Any) -> Execution:
    return Execution(executor=EXECUTOR.parse("serial"), training_workers=2, device="cpu", **options)


def packed_training(settings: TrainingSettings = SETTINGS) -> PackedTraining:
    task = build_task(TASK)
    network = Network(task.reference_model())
    return PackedTraining(packed(network), None, (), None, settings, 3, lambda: build_task(TASK), task.fingerprint, "cpu", 1)


def together(
    folder: Path, blow: Callable[[int], None] = lambda epoch: None, settings: TrainingSettings = SETTINGS, **options: Any
) -> tuple[dict[str, torch.Tensor], list[int], list[str]]:
    """Return the weights of a training in two processes, the epochs told, and the losses told."""
    epochs: list[int] = []
    told: list[str] = []

    def on_epoch(record: EpochRecord) -> None:
        epochs.append(record.epoch)
        blow(record.epoch)

    checkpoint = FileCheckpoint(folder / "state.safetensors")
    with training_group(execution(**options), told.append) as group:
        group.train(packed_training(settings), checkpoint, on_epoch)
    tensors, data = checkpoint.load() or ({}, {"epochs": []})
    assert [record["epoch"] for record in data["epochs"]] == [1, 2, 3, 4]
    return {name.removeprefix("model/"): tensor for name, tensor in tensors.items()}, epochs, told


def test_workers_that_die_or_stop_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected, epochs, told = together(tmp_path / "whole")
    assert (epochs, told) == ([1, 2, 3, 4], [])
    struck: list[float] = []

    def blow(epoch: int) -> None:
        if epoch in (1, 2) and len(struck) < epoch:
            pids = sorted(processes("ray::TrainingRank"))
            os.kill(pids[-1] if epoch == 1 else pids[0], signal.SIGKILL if epoch == 1 else signal.SIGSTOP)
            struck.append(time.monotonic())

    found, epochs, told = together(tmp_path, blow, training_timeout=20.0)
    assert len(struck) == 2
    assert len(told) == 2, told
    assert epochs == sorted(epochs)
    assert (epochs[0], epochs[-1]) == (1, 4)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    task = build_task(TASK)
    model = task.reference_model()
    train(model, task, SETTINGS, seed=3, device=torch.device("cpu"))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0.02, atol=2e-3)


def test_losses_beyond_the_retries_and_mistakes_end_the_training(tmp_path: Path) -> None:
    def blow(epoch: int) -> None:
        os.kill(max(processes("ray::TrainingRank")), signal.SIGKILL)

    with pytest.raises(LostGroupError, match="training on 2 workers .*the same command goes on from the last epoch"):
        together(tmp_path, blow, retries=0)
    assert len((FileCheckpoint(tmp_path / "state.safetensors").load() or ({}, {"epochs": []}))[1]["epochs"]) >= 1
    wild = TrainingSettings(epochs=4, batch_size=50, optimizer=OptimizerSettings(lr=1e30), autocast="off")
    with pytest.raises(DivergedError, match="the training loss became"):
        together(tmp_path / "wild", settings=wild)
