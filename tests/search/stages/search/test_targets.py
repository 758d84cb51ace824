from __future__ import annotations

import pytest
import torch

from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings, count_costs
from search.config.block import parse_limit
from search.run.network import Network
from search.stages.search.targets import reachable_targets, reference_value, resolve_targets
from search.study.problem import Target
from spaces.candidate import Candidate
from tests.search.small_space import MaskSpace, PointTask


class Bounded(MaskSpace):
    def cheapest(self) -> Candidate:
        return Candidate({"first": "1000", "second": "100000"})


def test_only_relative_limits_ask_for_the_reference() -> None:
    asked = []

    def reference(metric: str) -> float:
        asked.append(metric)
        return 200.0

    limits = {"macs": parse_limit("<= 40%"), "parameters": parse_limit("<= 120")}
    assert resolve_targets(limits, reference) == [Target("macs", 80.0), Target("parameters", 120.0)]
    assert asked == ["macs"]


def test_a_target_below_the_smallest_candidate_is_raised_and_told_of() -> None:
    told: list[str] = []
    targets = [Target("macs", 1.5), Target("parameters", 0.5)]
    # The space knows no parameters: nothing can be said of that target.
    assert reachable_targets(targets, Bounded(), told.append) == [Target("macs", 2.0), Target("parameters", 0.5)]
    (line,) = told
    assert "macs <= 1.5" in line
    assert "the smallest of the space has 2" in line
    assert reachable_targets([Target("macs", 2.5)], Bounded(), told.append) == [Target("macs", 2.5)]
    assert len(told) == 1


def test_the_reference_is_measured_by_the_evaluator_that_has_the_metric_and_left_as_it_is() -> None:
    task = PointTask()
    network = Network(task.build().eval())
    evaluators = [Accuracy(AccuracySettings(batch_norm_batches=0)), Cost(CostSettings())]
    before = network.digest()
    cpu = torch.device("cpu")
    macs = reference_value("macs", evaluators, network, task, cpu)
    assert macs == count_costs(network.model, task.example_inputs(), task.forward)["macs"]
    assert 0.0 <= reference_value("top1", evaluators, network, task, cpu) <= 1.0
    assert reference_value("latency_ms", evaluators, network, task, cpu) == 0.0
    assert network.digest() == before


@pytest.mark.parametrize("text", ["<= 0", "<= 100%", "about half"])
def test_limits_that_nothing_or_everything_meets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="limit|expected"):
        parse_limit(text)
