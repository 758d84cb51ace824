"""Trials of the space of ratios: trained by gradient cut, in part, in whole and in another process."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.observations import observations
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from evaluators.tasks.small_images import DigitsSettings
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from search.algorithms.optuna_sampler import OptunaSampler, OptunaSamplerSettings
from search.executors.base import Job
from search.executors.shipment import ship
from search.executors.trial_evaluator import TrialEvaluator
from search.study.problem import Objective, Problem, Target
from search.study.trial import Proposal
from spaces.candidate import Candidate
from spaces.filter_ratio import FilterRatio
from spaces.filter_ratio_settings import FilterRatioSettings

CPU = torch.device("cpu")
TASK = TaskSettings(
    ModelSettings("spaces.networks.digits_cnn", {"width": 4}),
    NamedData("digits", DigitsSettings(search_size=100, train_size=200)),
)


@pytest.fixture(scope="module")
def evaluator() -> TrialEvaluator:
    task = build_task(TASK)
    model = task.reference_model().eval()
    settings = FilterRatioSettings(method="gradient_cut", levels=4)
    space = FilterRatio(model, task.example_inputs(), settings, forward=task.forward)
    space.learn(observations(task, CPU))
    training = TrainingSettings(epochs=2, batch_size=50, optimizer=OptimizerSettings("sgd", lr=0.05))
    evaluators = [Cost(CostSettings()), Accuracy(AccuracySettings(batch_norm_batches=2))]
    return TrialEvaluator(space, model, task, evaluators, 0, CPU, training)


def half(evaluator: TrialEvaluator) -> Candidate:
    return Candidate(dict.fromkeys(evaluator.space.domains, 0.5))


@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_whatever_the_training_the_network_has_the_ratio(evaluator: TrialEvaluator, fidelity: float) -> None:
    trial = evaluator.evaluate(Job(0, Proposal(half(evaluator), fidelity)))
    assert trial.error == ""
    assert trial.metrics["macs"] == evaluator.space.costs(half(evaluator))["macs"]


def test_another_process_finds_the_same(evaluator: TrialEvaluator) -> None:
    job = Job(0, Proposal(half(evaluator)))
    evaluate = ship(evaluator, [], partial(build_task, TASK), 1, "cpu")()
    assert evaluate(job).metrics == evaluator.evaluate(job).metrics


def test_a_sampler_of_numbers_searches_it(evaluator: TrialEvaluator) -> None:
    space = evaluator.space
    whole = space.costs(Candidate(dict.fromkeys(space.domains, 0.0)))["macs"]
    problem = Problem(space, [Objective("top1", "maximize")], [Target("macs", 0.5 * whole)], {}, trains=True)
    sampler = OptunaSampler(problem, OptunaSamplerSettings(evaluations=6, batch=3), 0)
    asked = 0
    while not sampler.finished:
        for proposal in sampler.ask(3):
            assert space.costs(proposal.candidate)["macs"] <= 0.5 * whole
            sampler.tell(evaluator.evaluate(Job(asked, proposal)))
            asked += 1
    assert asked == 6
