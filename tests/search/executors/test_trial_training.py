"""The training of a trial goes on from its last epoch, wherever the trial is evaluated again."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits_search import search, timeless
from strengths import EPOCHS, STEPS, Rising, Shrink, steps, training_problem, training_recipe, training_workload

from search.executors.base import Job
from search.executors.ray_worker import Begun, RayWorker, TrainedSoFar
from search.executors.serial import SerialExecutor, SerialSettings
from search.trial import Proposal, Trial
from search.trial_checkpoints import TrialCheckpoints
from spaces.candidate import Candidate

EVERY_STEP = list(range(1, EPOCHS * STEPS + 1))


class Kill(BaseException):
    pass


def serially(folder: Path, log: Path) -> list[Trial]:
    recipe = training_recipe(log)
    executor = SerialExecutor(training_workload(recipe, folder), SerialSettings())
    return search(folder, training_problem(recipe), executor, algorithm=Rising())


def test_a_killed_driver_goes_on_in_the_middle_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = serially(tmp_path / "whole", tmp_path / "whole.log")
    assert [trial.error for trial in whole] == ["", "", ""]
    assert not (tmp_path / "whole" / "trials").exists()
    log, after_step = tmp_path / "cut.log", Shrink.after_step

    def dies(self: Shrink) -> None:
        after_step(self)
        # In the third epoch of the second trial.
        if self.strength == 1e-4 and int(self.steps) == 2 * STEPS + 3:
            raise Kill

    with monkeypatch.context() as patched:
        patched.setattr(Shrink, "after_step", dies)
        with pytest.raises(Kill):
            serially(tmp_path / "cut", log)
    assert len(list((tmp_path / "cut" / "trials").iterdir())) == 1
    found = serially(tmp_path / "cut", log)
    assert timeless(found) == timeless(whole)
    made = steps(log)
    assert made["0.000001"] == EVERY_STEP
    assert made["0.000100"] == [*EVERY_STEP[: 2 * STEPS + 3], *EVERY_STEP[2 * STEPS :]]
    assert not (tmp_path / "cut" / "trials").exists()


def test_a_worker_sends_every_epoch_and_goes_on_from_what_it_is_sent(tmp_path: Path) -> None:
    recipe = training_recipe(tmp_path / "log")
    job = Job(5, Proposal(Candidate({"strength": 1e-4})))
    worker = RayWorker(str(tmp_path), [])
    worker.prepare(lambda: recipe.evaluate)
    begun, *epochs, trials = worker.evaluate([job], {})
    assert begun == Begun()
    assert [type(epoch) for epoch in epochs] == [TrainedSoFar] * EPOCHS
    assert all(isinstance(epoch, TrainedSoFar) and epoch.number == 5 for epoch in epochs)
    second = epochs[1]
    assert isinstance(second, TrainedSoFar)
    (tmp_path / "log").unlink()
    _, _, again = worker.evaluate([job], {5: second.content})
    assert steps(tmp_path / "log")["0.000100"] == EVERY_STEP[2 * STEPS :]
    assert isinstance(trials, list)
    assert isinstance(again, list)
    assert timeless(again) == timeless(trials)


def test_checkpoints_of_recorded_trials_are_removed(tmp_path: Path) -> None:
    checkpoints = TrialCheckpoints(tmp_path / "trials")
    proposals = [Proposal(Candidate({"strength": 0.1})), Proposal(Candidate({"strength": 0.1}), fidelity=0.5)]
    for proposal in proposals:
        checkpoints.of(proposal).save({}, {})
    checkpoints.discard(proposals[:1])
    assert checkpoints.of(proposals[0]).load() is None
    assert checkpoints.of(proposals[1]).load() == ({}, {})
