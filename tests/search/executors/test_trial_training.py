"""The training of a trial goes on from its last epoch, wherever the trial is evaluated again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evaluators.tasks.measure import measure
from evaluators.training.checkpoint import unpack_checkpoint
from evaluators.training.loop import train
from evaluators.training.state import end_of
from search.algorithms.base import Algorithm
from search.executors.base import Job
from search.executors.ray_worker import Begun, RayWorker, TrainedSoFar
from search.executors.serial import SerialExecutor, SerialSettings
from search.executors.trial_checkpoints import MissingStateError, TrialCheckpoints
from search.executors.trial_evaluator import trial_seed
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from tests.search.executors.digits_search import CPU, search, timeless
from tests.search.executors.rising_trials import (
    EPOCHS,
    STEPS,
    Rising,
    Rungs,
    Shrink,
    steps,
    training_evaluator,
    training_problem,
    training_workload,
)

EVERY_STEP = list(range(1, EPOCHS * STEPS + 1))


class Kill(BaseException):
    pass


def serially(folder: Path, log: Path, algorithm: type[Algorithm] = Rising) -> list[Trial]:
    evaluator = training_evaluator(log)
    executor = SerialExecutor(training_workload(evaluator, folder), SerialSettings())
    problem = training_problem(evaluator)
    return search(folder, problem, executor, algorithm=algorithm(problem))


def kept(folder: Path) -> list[int]:
    """Return the numbers of the trials whose end states are kept; nothing else is left."""
    found = [re.fullmatch(r"trial-(\d+)-[0-9a-f]{16}\.safetensors", path.name) for path in (folder / "trials").iterdir()]
    return sorted(int(match[1]) for match in found if match is not None or pytest.fail("something else is left"))


def test_a_killed_driver_goes_on_in_the_middle_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = serially(tmp_path / "whole", tmp_path / "whole.log")
    assert [trial.error for trial in whole] == ["", "", ""]
    assert kept(tmp_path / "whole") == [max(whole, key=lambda trial: trial.metrics["top1"]).number]
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
    # The first trial's, which is the best so far, and that of the second on its way.
    assert len(list((tmp_path / "cut" / "trials").iterdir())) == 2
    found = serially(tmp_path / "cut", log)
    assert timeless(found) == timeless(whole)
    made = steps(log)
    assert made["0.000001"] == EVERY_STEP
    assert made["0.000100"] == [*EVERY_STEP[: 2 * STEPS + 3], *EVERY_STEP[2 * STEPS :]]
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")


def test_a_worker_sends_every_epoch_and_goes_on_from_what_it_is_sent(tmp_path: Path) -> None:
    evaluator = training_evaluator(tmp_path / "log")
    job = Job(5, Proposal(Candidate({"strength": 1e-4})))
    worker = RayWorker(str(tmp_path), [])
    worker.prepare(lambda: evaluator.evaluate)
    begun, *epochs, trials = worker.evaluate([job], {}, {})
    assert begun == Begun()
    assert [type(epoch) for epoch in epochs] == [TrainedSoFar] * EPOCHS
    assert all(isinstance(epoch, TrainedSoFar) and epoch.number == 5 for epoch in epochs)
    second = epochs[1]
    assert isinstance(second, TrainedSoFar)
    (tmp_path / "log").unlink()
    _, _, again = worker.evaluate([job], {5: second.content}, {})
    assert steps(tmp_path / "log")["0.000100"] == EVERY_STEP[2 * STEPS :]
    assert isinstance(trials, list)
    assert isinstance(again, list)
    assert timeless(again) == timeless(trials)


def test_end_states_are_kept_while_they_are_needed(tmp_path: Path) -> None:
    checkpoints = TrialCheckpoints(tmp_path / "trials")
    candidate = Candidate({"strength": 0.1})
    proposals = [Proposal(candidate), Proposal(candidate, 0.5), Proposal(candidate, 1.0, 1), Proposal(candidate, 0.25)]
    for number, proposal in enumerate(proposals):
        checkpoints.of(proposal).save({}, {"number": number})
    for number in (0, 1, 3):
        checkpoints.keep(Trial(number, proposals[number], "failed" if number == 3 else "complete", {}))
    assert [checkpoints.of(proposal).load() is None for proposal in proposals] == [True, True, False, True]
    assert checkpoints.end(3) is None
    # It has begun already: what it starts from is not read again.
    assert checkpoints.start(proposals[2]) is None
    checkpoints.of(proposals[2]).path.unlink()
    state = checkpoints.start(proposals[2])
    assert state is not None
    assert state.fingerprint == candidate.fingerprint
    assert unpack_checkpoint(state.content) == ({}, {"number": 1})
    checkpoints.retain({0}, below=1)
    assert checkpoints.start(proposals[2]) is not None
    checkpoints.retain({0}, below=2)
    end = checkpoints.end(0)
    assert end is not None
    assert end.load() == ({}, {"number": 0})
    with pytest.raises(MissingStateError, match="end state of trial 1"):
        checkpoints.start(proposals[2])


def test_an_end_state_is_not_replaced_by_the_half_of_a_later_trial_of_the_same_proposal(tmp_path: Path) -> None:
    checkpoints, proposal = TrialCheckpoints(tmp_path), Proposal(Candidate({"a": 1}))
    first = Trial(0, proposal, "complete", {})
    checkpoints.of(proposal).save({}, {"epochs": 9})
    checkpoints.keep(first)
    checkpoints.of(proposal).save({}, {"epochs": 1})
    TrialCheckpoints(tmp_path).keep(first)
    for checkpoint, epochs in ((checkpoints.end(0), 9), (checkpoints.of(proposal), 1)):
        found = checkpoint.load() if checkpoint is not None else None
        assert found is not None
        assert found[1] == {"epochs": epochs}


def test_rungs_train_on_from_the_end_of_the_rung_before(tmp_path: Path) -> None:
    trials = serially(tmp_path / "rungs", tmp_path / "log", Rungs)
    assert [trial.error for trial in trials] == [""] * 7
    made = steps(tmp_path / "log")
    last = trials[5].proposal.candidate.values["strength"]
    assert made[f"{last:.6f}"] == EVERY_STEP
    assert sum(map(len, made.values())) == (3 + 2 + 1) * STEPS
    whole = serially(tmp_path / "whole", tmp_path / "whole.log")
    assert trials[5].metrics == next(t for t in whole if t.proposal.candidate == trials[5].proposal.candidate).metrics
    # Another candidate at no fidelity is measured with the weights that were trained.
    assert trials[6].metrics == trials[5].metrics
    assert kept(tmp_path / "rungs") == [5]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(("rung", "epoch"), [(1, 1), pytest.param(0, 0, marks=SLOW), pytest.param(2, 2, marks=SLOW)])
def test_a_kill_within_a_rung_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rung: int, epoch: int) -> None:
    whole = serially(tmp_path / "whole", tmp_path / "whole.log", Rungs)
    strength = whole[5].proposal.candidate.values["strength"]
    log, after_step = tmp_path / "cut.log", Shrink.after_step

    def dies(self: Shrink) -> None:
        after_step(self)
        if self.strength == strength and int(self.steps) == rung * STEPS + 4:
            raise Kill

    with monkeypatch.context() as patched:
        patched.setattr(Shrink, "after_step", dies)
        with pytest.raises(Kill):
            serially(tmp_path / "cut", log, Rungs)
    assert timeless(serially(tmp_path / "cut", log, Rungs)) == timeless(whole)
    made = steps(log)[f"{strength:.6f}"]
    assert made == [*EVERY_STEP[: epoch * STEPS + 4], *EVERY_STEP[epoch * STEPS :]]
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")


def test_another_candidate_takes_over_weights_and_moments(tmp_path: Path) -> None:
    evaluator = training_evaluator(tmp_path / "log")
    checkpoints = TrialCheckpoints(tmp_path / "trials")
    first = Proposal(Candidate({"strength": 1e-6}))
    checkpoints.keep(evaluator.evaluate(Job(0, first), checkpoints.of(first)))
    other = Proposal(Candidate({"strength": 1e-4}), 1 / EPOCHS, 0)
    state = checkpoints.start(other)
    assert state is not None
    trial = evaluator.evaluate(Job(1, other), checkpoints.of(other), state)
    assert steps(tmp_path / "log")["0.000100"] == EVERY_STEP[:STEPS]

    # The same by hand.
    prepared = evaluator.space.prepare(evaluator.model, other.candidate)
    weights, moments = end_of(state.content)
    assert set(moments.tensors) == {f"{place}.momentum_buffer" for place in range(len(moments.names))}
    prepared.load_state_dict(weights)
    assert evaluator.training is not None
    seed = trial_seed(0, other.candidate)
    sparsifier = Shrink(1e-4, tmp_path / "by hand.log", 0.0)
    train(prepared, evaluator.task, evaluator.training, seed=seed, device=CPU, sparsifier=sparsifier, until=1, moments=moments)
    assert evaluator.score(prepared, other) == trial.metrics
    cold = evaluator.evaluate(Job(1, Proposal(other.candidate, 1 / EPOCHS)))
    assert cold.metrics != trial.metrics


def test_a_rung_that_adds_no_epoch_has_an_end_state_too(tmp_path: Path) -> None:
    evaluator = training_evaluator(tmp_path / "log")
    checkpoints = TrialCheckpoints(tmp_path / "trials")
    candidate = Candidate({"strength": 1e-4})
    # Of three epochs both are one.
    rungs = [Proposal(candidate, 0.1), Proposal(candidate, 0.2, 0), Proposal(candidate, 1.0, 1)]
    trials = []
    for number, proposal in enumerate(rungs):
        trials.append(evaluator.evaluate(Job(number, proposal), checkpoints.of(proposal), checkpoints.start(proposal)))
        checkpoints.keep(trials[-1])
    assert steps(tmp_path / "log")["0.000100"] == EVERY_STEP
    assert trials[1].metrics == trials[0].metrics
    assert trials[2].metrics == evaluator.evaluate(Job(0, Proposal(candidate))).metrics


def test_a_trial_without_what_it_starts_from_fails_and_says_so(tmp_path: Path) -> None:
    evaluator = training_evaluator(tmp_path / "log")
    trial = evaluator.evaluate(Job(4, Proposal(Candidate({"strength": 1e-4}), 1.0, 3)))
    assert trial.state == "failed"
    assert "end state of trial 3" in trial.error


def test_no_fidelity_trains_nothing_and_measures_all(tmp_path: Path) -> None:
    evaluator = training_evaluator(tmp_path / "log")
    trial = evaluator.evaluate(Job(0, Proposal(Candidate({"strength": 1e-4}), 0.0)))
    assert trial.metrics["top1"] == measure(evaluator.model, evaluator.task, "search")["top1"]
    assert not (tmp_path / "log").exists()


def test_a_worker_goes_on_from_the_end_state_it_is_sent(tmp_path: Path) -> None:
    evaluator = training_evaluator(tmp_path / "log")
    checkpoints = TrialCheckpoints(tmp_path / "trials")
    candidate = Candidate({"strength": 1e-4})
    first, second = Proposal(candidate, 1 / EPOCHS), Proposal(candidate, 1.0, 0)
    checkpoints.keep(evaluator.evaluate(Job(0, first), checkpoints.of(first)))
    state = checkpoints.start(second)
    assert state is not None
    worker = RayWorker(str(tmp_path), [])
    worker.prepare(lambda: evaluator.evaluate)
    _, *epochs, trials = worker.evaluate([Job(1, second)], {}, {1: state})
    assert len(epochs) == EPOCHS - 1
    assert steps(tmp_path / "log")["0.000100"] == EVERY_STEP
    assert isinstance(trials, list)
    assert timeless(trials) == timeless([evaluator.evaluate(Job(1, second), None, state)])
