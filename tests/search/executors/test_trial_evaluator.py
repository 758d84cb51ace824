import errno
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.base import EvaluationContext, Evaluator, Metric
from evaluators.training.checkpoint import FileCheckpoint
from search.executors.base import Job, Workload
from search.executors.ray_worker import SentCheckpoint
from search.executors.serial import SerialExecutor, SerialSettings
from search.executors.trial_evaluator import TrialEvaluator, trial_seed
from search.study.trial import Proposal
from spaces.candidate import Candidate
from tests.search.small_space import MaskSpace, PointTask

CANDIDATE = Candidate({"first": "1100", "second": "111000"})
OTHER = Candidate({"first": "1000", "second": "111000"})


class Recording(Evaluator):
    """Notes when it ran, and draws from the trial's generator."""

    def __init__(self, name: str, rank: int, order: list[str], value: float | None = None) -> None:
        self.name, self.rank, self.order, self.value = name, rank, order, value

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {self.name: Metric("", "maximize")}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        self.order.append(self.name)
        assert context.costs["macs"] == 5.0 or context.costs["macs"] == 4.0
        drawn = float(torch.rand((), generator=context.generator))
        return {self.name: drawn if self.value is None else self.value}


def evaluator(*evaluators: Evaluator, seed: int = 0) -> TrialEvaluator:
    task = PointTask()
    return TrialEvaluator(MaskSpace(), task.build(), task, evaluators, seed, torch.device("cpu"))


def test_cheapest_first() -> None:
    order: list[str] = []
    trial = evaluator(Recording("slow", 10, order), Recording("quick", 0, order)).evaluate(Job(3, Proposal(CANDIDATE)))
    assert order == ["quick", "slow"]
    assert (trial.number, trial.state) == (3, "complete")
    assert trial.seconds > 0


def test_randomness_depends_on_seed_and_candidate_only() -> None:
    def draw(candidate: Candidate, seed: int = 0, number: int = 0) -> float:
        torch.rand(number + 1)
        return evaluator(Recording("a", 0, []), seed=seed).evaluate(Job(number, Proposal(candidate))).metrics["a"]

    assert draw(CANDIDATE) == draw(CANDIDATE, number=7)
    assert draw(CANDIDATE) != draw(OTHER)
    assert draw(CANDIDATE) != draw(CANDIDATE, seed=1)
    assert 0 <= trial_seed(0, CANDIDATE) < 2**48


def test_an_exception_makes_a_failed_trial_with_its_text() -> None:
    class Broken(Recording):
        def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
            raise RuntimeError("the sensor is off")

    trial = evaluator(Broken("a", 0, [])).evaluate(Job(0, Proposal(CANDIDATE)))
    assert trial.state == "failed"
    assert trial.error == "RuntimeError: the sensor is off"
    assert not trial.metrics


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (None, r"Broken.evaluate: expected a number for each of \['a'\], got None"),
        ({}, r"Broken.evaluate: expected a among what is measured, got \[\]"),
        ({"a": None}, "Broken: expected a number for a, got None"),
        ({"a": "high"}, "Broken: expected a number for a, got 'high'"),
        ({"a": torch.tensor(float("nan"))}, "a is nan; expected a finite number"),
    ],
)
def test_what_is_no_measurement_makes_a_failed_trial(found: object, error: str) -> None:
    class Broken(Recording):
        def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
            return found  # type: ignore[return-value]

    trial = evaluator(Broken("a", 0, [])).evaluate(Job(0, Proposal(CANDIDATE)))
    assert trial.state == "failed"
    assert re.fullmatch(f"MeasurementError: {error}", trial.error.replace("tensor(nan)", "nan"))


def test_numbers_of_other_libraries_are_recorded_as_plain_ones() -> None:
    class Precise(Recording):
        def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
            return {"a": np.float32(0.5), "b": torch.tensor(2), "c": 3}  # type: ignore[dict-item]

    metrics = evaluator(Precise("a", 0, [])).evaluate(Job(0, Proposal(CANDIDATE))).metrics
    assert json.loads(json.dumps(dict(metrics))) == {"a": 0.5, "b": 2.0, "c": 3}


def test_a_forward_pass_that_fails_names_the_layer() -> None:
    class Offended(nn.ReLU):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise ValueError("not with these channels")

    class Running(Recording):
        def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
            nn.Sequential(nn.Identity(), nn.Sequential(Offended()))(torch.ones(1))
            raise AssertionError

    trial = evaluator(Running("a", 0, [])).evaluate(Job(0, Proposal(CANDIDATE)))
    assert trial.state == "failed"
    assert trial.error == "ValueError: not with these channels (in layer 1.0 (Offended))"


def test_a_full_disk_fails_a_trial_only_where_another_process_keeps_its_training(tmp_path: Path) -> None:
    class Full(Recording):
        def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
            raise OSError(errno.ENOSPC, "no space left")

    job, full = Job(0, Proposal(CANDIDATE)), evaluator(Full("a", 0, []))
    with pytest.raises(OSError, match="no space left"):
        full.evaluate(job, FileCheckpoint(tmp_path / "training.safetensors"))
    sent = SentCheckpoint(0, None, lambda state: None)
    assert [full.evaluate(job, checkpoint).state for checkpoint in (None, sent)] == ["failed", "failed"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_fails_the_trial(value: float) -> None:
    trial = evaluator(Recording("a", 0, [], value)).evaluate(Job(0, Proposal(CANDIDATE)))
    assert trial.state == "failed"
    assert "a is " in trial.error


def test_the_serial_executor_works_in_order_and_cancels() -> None:
    executor = SerialExecutor(Workload(evaluator(Recording("a", 0, [])).evaluate, pack=lambda device: None), SerialSettings())
    assert executor.free == 1
    for number in range(3):
        executor.submit(Job(number, Proposal(CANDIDATE)))
    assert executor.free == 0
    events = executor.events()
    assert next(iter(events)).trial.number == 0
    executor.cancel()
    assert list(events) == []
    assert executor.free == 1
