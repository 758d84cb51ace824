"""Candidates of a step are built with solved layers, in the fast form or as delivered, here and in another process alike."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from evaluators.divergence import Divergence, DivergenceSettings
from evaluators.task import Task
from evaluators.tasks.classification import Classification
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings
from search.executors.base import Job
from search.executors.step_solving import StepSolving
from search.executors.trial_evaluator import TrialEvaluator
from search.study.trial import Proposal, Step
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask
from spaces.layers.batch_norm import statistics_kept
from spaces.reconstruction.settings import ReconstructionSettings

CPU = torch.device("cpu")
QUICK = Step(64, 0)
LAST = Step(64, 0, "close")
FINAL = Step(64, 0, "final")


@pytest.fixture(scope="module")
def task() -> Task:
    data = Digits(DigitsSettings(search_size=64, train_size=512))
    return Classification(ModelSettings("spaces.networks.digits_cnn", {"width": 8}), data)


@pytest.fixture(scope="module")
def built(task: Task) -> tuple[TrialEvaluator, Candidate]:
    model = task.reference_model().eval()
    space = ChannelMask(model, task.example_inputs())
    solving = StepSolving(ReconstructionSettings(images=256, positions=20_000))
    evaluator = TrialEvaluator(space, model, task, [Divergence(DivergenceSettings(pool=256))], 0, CPU, solving=solving)
    half = {name: np.arange(domain.channels) < domain.channels // 2 for name, domain in space.domains.items()}
    return evaluator, Candidate(half)


def test_steps_measure_solved_networks_and_other_proposals_do_not(built: Any) -> None:
    evaluator, candidate = built
    models = {step: evaluator.build(Proposal(candidate, step=step)).model for step in (None, QUICK, LAST, FINAL)}
    assert [statistics_kept(model) for model in models.values()] == [False, True, True, True]
    weights = {step: torch.cat([one.flatten() for one in model.parameters()]) for step, model in models.items()}
    assert not torch.equal(weights[LAST], weights[QUICK])
    assert not torch.equal(weights[LAST], weights[FINAL]), "the final step is solved on as few samples as the others"
    found = {step: evaluator.evaluate(Job(0, Proposal(candidate, step=step))) for step in (QUICK, LAST, FINAL)}
    assert all(trial.state == "complete" for trial in found.values())
    unsolved = evaluator.evaluate(Job(0, Proposal(candidate)))
    assert found[LAST].metrics["divergence"] < 0.5 * unsolved.metrics["divergence"]


def test_what_candidates_share_changes_nothing_and_stays_in_its_process(built: Any) -> None:
    evaluator, candidate = built
    other = Candidate({name: value[::-1] for name, value in candidate.values.items()})
    fresh = pickle.loads(pickle.dumps(evaluator.solving))
    assert len(pickle.dumps(fresh)) < 1000
    again = TrialEvaluator(evaluator.space, evaluator.model, evaluator.task, evaluator.evaluators, 0, CPU, solving=fresh)
    expected = evaluator.evaluate(Job(0, Proposal(candidate, step=LAST))).metrics
    assert again.evaluate(Job(0, Proposal(other, step=LAST))).state == "complete"
    assert again.evaluate(Job(0, Proposal(candidate, step=LAST))).metrics == expected


def test_without_a_reconstruction_steps_measure_networks_as_they_are_cut(built: Any) -> None:
    evaluator, candidate = built
    plain = TrialEvaluator(evaluator.space, evaluator.model, evaluator.task, evaluator.evaluators, 0, CPU)
    assert not statistics_kept(plain.build(Proposal(candidate, step=FINAL)).model)
