"""The epoch whose weights a training hands on, by the scores of its epochs on the search split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.task import Task
from evaluators.training.checkpoint import CheckpointError, FileCheckpoint
from evaluators.training.kept_epoch import clearly_better
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import EarlyStopSettings, TrainingSettings
from evaluators.training.state import History, end_of
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(epochs=3, batch_size=64, optimizer=OptimizerSettings(lr=0.1), autocast="off")
FALLING = (0.3, 0.9, 0.5)


def scored(values: Sequence[float]) -> Task:
    """Return a task whose score on the search split is the next value in every epoch."""
    task, given = digits_task(train_size=64), iter(values)
    original = task.score
    task.score = lambda outputs, targets: {"top1": torch.full_like(original(outputs, targets)["top1"], next(given))}
    return task


def handed_on(
    settings: TrainingSettings, scores: Sequence[float], path: Path | None = None, **options: Any
) -> tuple[int, History]:
    """Return the epoch whose weights the network has at the end, by looking at them, and the history."""
    task, seen = scored(scores), []
    model = task.reference_model()

    def look(record: object) -> None:
        seen.append(model.classifier.weight.detach().clone())

    checkpoint = None if path is None else FileCheckpoint(path)
    history = train(model, task, settings, seed=0, device=CPU, on_epoch=look, checkpoint=checkpoint, **options)
    return next(place for place, weight in enumerate(seen, 1) if torch.equal(weight, model.classifier.weight)), history


@pytest.mark.parametrize(
    ("keep", "scores", "epoch"),
    [
        ("auto", FALLING, 2),
        # On 100 samples the difference of such scores has a standard error of 0.06.
        ("auto", (0.3, 0.8, 0.75), 3),
        ("auto", (0.3, 0.8, 0.8), 3),
        ("auto", (0.3, 0.8, math.nan), 2),
        ("best", (0.3, 0.8, 0.75), 2),
        ("last", FALLING, 3),
    ],
)
def test_the_best_epoch_is_handed_on_where_its_lead_means_something(
    keep: str, scores: Sequence[float], epoch: int, tmp_path: Path
) -> None:
    path = tmp_path / "training"
    found, history = handed_on(replace(SETTINGS, keep_epoch=keep), scores, path)
    assert (found, history.kept.epoch) == (epoch, epoch)
    # Another process that gets the checkpoint hands on the same.
    weights, _ = end_of(path.read_bytes())
    model = digits_task(train_size=64).reference_model()
    model.load_state_dict(weights)
    assert history.keeps_best is (epoch != 3)


@pytest.mark.parametrize(("keep", "epoch"), [("auto", 1), ("best", 1), ("last", 2)])
def test_early_stopping_hands_on_the_best_unless_the_last_is_asked_for(keep: str, epoch: int) -> None:
    settings = replace(SETTINGS, keep_epoch=keep, early_stop=EarlyStopSettings(patience=1))
    found, history = handed_on(settings, (0.5, 0.49, 0.6))
    assert len(history.epochs) == 2
    assert (found, history.kept.epoch) == (epoch, epoch)


@pytest.mark.parametrize(("keep", "epoch"), [("auto", 3), ("best", 2)])
def test_a_sparsifier_trains_towards_its_last_epoch(keep: str, epoch: int) -> None:
    sparsifier = ScalingFactor(ScalingFactorSettings(strength=1e-3))
    found, history = handed_on(replace(SETTINGS, keep_epoch=keep), FALLING, sparsifier=sparsifier)
    assert (found, history.kept.epoch) == (epoch, epoch)


def test_a_finished_training_is_read_back_as_it_was_handed_on(tmp_path: Path) -> None:
    path = tmp_path / "training"
    handed_on(SETTINGS, FALLING, path)
    task = scored(())
    model = task.reference_model()
    history = train(model, task, SETTINGS, seed=0, device=CPU, checkpoint=FileCheckpoint(path))
    assert history.kept.epoch == 2
    weights, _ = end_of(path.read_bytes())
    assert torch.equal(model.classifier.weight, weights["classifier.weight"])


def older(path: Path, *options: str) -> None:
    """Rewrite a checkpoint as a version has it that does not know some options of a training."""
    tensors, data = FileCheckpoint(path).load()
    for option in options:
        del data["identity"]["training"][option]
    del data["keeps_best"]
    FileCheckpoint(path).save(tensors, data)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_checkpoint_that_does_not_know_an_option_counts_it_as_at_its_default(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "training"
    task = scored((0.3, 0.5, 0.6))
    train(task.reference_model(), task, SETTINGS, seed=0, device=CPU, checkpoint=FileCheckpoint(path), until=cut)
    older(path, "keep_epoch", "clip_value")
    task = scored((0.5, 0.6)[cut - 1 :])
    history = train(task.reference_model(), task, SETTINGS, seed=0, device=CPU, checkpoint=FileCheckpoint(path))
    assert [round(record.search_score, 3) for record in history.epochs] == [0.3, 0.5, 0.6]


def test_an_option_that_a_checkpoint_does_not_know_and_that_is_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training"
    task = scored((0.3, 0.5, 0.6))
    train(task.reference_model(), task, SETTINGS, seed=0, device=CPU, checkpoint=FileCheckpoint(path))
    older(path, "clip_value")
    changed = replace(SETTINGS, clip_value=0.1)
    with pytest.raises(CheckpointError, match=r"training\.clip_value = null and now it is 0\.1"):
        train(task.reference_model(), task, changed, seed=0, device=CPU, checkpoint=FileCheckpoint(path))


@pytest.mark.parametrize(
    ("one", "other", "samples", "clearly"),
    [
        (0.9, 0.8, 1000, True),
        (0.9, 0.8, 50, False),
        (0.81, 0.8, 1000, False),
        (0.81, 0.8, 100_000, True),
        (-0.1, -0.2, 1000, True),
        (-0.1, -0.2, 50, False),
        (10.0, 9.9, None, False),
        (10.0, 9.7, None, True),
        (-1.0, -1.05, None, True),
        (math.nan, 0.5, 100, False),
        (0.5, math.nan, 100, True),
        (math.nan, math.nan, 100, False),
    ],
)
def test_a_lead_means_something_by_two_standard_errors(one: float, other: float, samples: int | None, clearly: bool) -> None:
    assert clearly_better(one, other, samples) is clearly
