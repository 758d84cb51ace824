"""Divergence from the dense network: by hand, on any outputs, on samples that are drawn, and without a cache that travels."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluators import reference_outputs
from evaluators.base import Draw, EvaluationContext
from evaluators.divergence import Divergence, DivergenceSettings
from evaluators.output_distance import KullbackLeibler, RelativeError, distance_of
from evaluators.reference_outputs import ReferenceOutputs
from evaluators.task import MeasurementError
from evaluators.tasks.loader_task import LoaderTask
from spaces.layers.batch_norm import keep_statistics
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task():
    return digits_task()


@pytest.fixture(scope="module")
def dense(task):
    return task.build()


@pytest.fixture(scope="module")
def small(task):
    model, generator = task.build(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def context(task, dense, fidelity=1.0, draw=None):
    return EvaluationContext(task, torch.Generator(), CPU, fidelity, dense, {}, draw=draw)


def outputs_of(model, task, samples):
    inputs, _ = next(iter(task.batches("train", samples, limit=samples)))
    with torch.no_grad():
        return model.eval()(inputs)


def plain(**options):
    return Divergence(DivergenceSettings(batch_norm_batches=0, **options))


def test_divergence_is_the_mean_over_samples_with_its_standard_error(task, dense, small):
    ours, theirs = outputs_of(small, task, 100), outputs_of(dense, task, 100)
    values = F.kl_div(F.log_softmax(ours, 1), F.log_softmax(theirs, 1), reduction="none", log_target=True).sum(1)
    found = plain(samples=100, batch_size=33).evaluate(small, context(task, dense))
    assert found["divergence"] == pytest.approx(float(values.mean()), rel=1e-4)
    assert found["divergence_error"] == pytest.approx(float(values.std()) / 10.0, rel=1e-4)
    half = plain(samples=100).evaluate(small, context(task, dense, 0.5))
    assert half["divergence"] == pytest.approx(float(values[:50].mean()), rel=1e-4)


def test_relative_error_is_one_for_outputs_that_are_their_mean(task, dense):
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(outputs_of(dense, task, 100).mean(0))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.mean.expand(len(inputs), -1)

    found = plain(samples=100, measure="relative_error").evaluate(Constant(), context(task, dense))
    assert found["divergence"] == pytest.approx(1.0, rel=1e-4)
    assert plain(samples=100, measure="relative_error").evaluate(dense, context(task, dense))["divergence"] == 0.0


def test_the_dense_network_has_no_divergence_and_labels_are_not_read(task, dense, monkeypatch):
    monkeypatch.setattr(task, "loss", None)
    monkeypatch.setattr(task, "score", None)
    assert plain().evaluate(dense, context(task, dense))["divergence"] == pytest.approx(0.0, abs=1e-6)


def test_statistics_are_measured_again_except_those_of_a_reconstructed_network(task, dense):
    for kept in (False, True):
        model = task.build()
        model.bn.running_mean.fill_(3.0)
        if kept:
            keep_statistics(model)
        Divergence(DivergenceSettings(samples=64)).evaluate(model, context(task, dense))
        assert bool((model.bn.running_mean == 3.0).all()) == kept


def test_draws_are_fresh_by_seed_and_held_out_samples_are_seen_by_no_other(task, dense, small, monkeypatch):
    places: dict[Any, set[int]] = {}
    original = ReferenceOutputs.distances

    def seen(self, model, chosen, own=False):
        places[draw] = set(chosen.tolist())
        return original(self, model, chosen, own)

    monkeypatch.setattr(ReferenceOutputs, "distances", seen)
    evaluator, values = plain(pool=200), {}
    for draw in (Draw(50, 0), Draw(50, 1), Draw(500, 2), Draw(500, 0, held_out=True)):
        values[draw] = evaluator.evaluate(small, context(task, dense, draw=draw))
        assert evaluator.evaluate(small, context(task, dense, draw=draw)) == values[draw]
    first, second, whole, last = places.values()
    assert len(first) == len(second) == 50
    assert first != second
    assert whole == set(range(150))
    assert last == set(range(150, 200))


def test_a_rough_comparison_takes_the_statistics_of_the_batch(task, dense, small):
    evaluator = Divergence(DivergenceSettings(samples=200, pool=200))
    model = copy.deepcopy(small)
    model.bn.running_mean.fill_(3.0)
    found = evaluator.evaluate(model, context(task, dense, draw=Draw(150, 0, rough=True)))
    assert bool((model.bn.running_mean == 3.0).all())
    measured = evaluator.evaluate(model, context(task, dense, draw=Draw(150, 0)))
    assert found["divergence"] == pytest.approx(measured["divergence"], rel=0.2)
    keep_statistics(model)
    kept = plain(pool=200).evaluate(model, context(task, dense, draw=Draw(150, 0)))
    assert evaluator.evaluate(model, context(task, dense, draw=Draw(150, 0, rough=True))) == kept


def test_the_dense_network_runs_once_and_its_outputs_do_not_travel(task, dense, small, monkeypatch):
    evaluator, made = plain(samples=64), []
    original = ReferenceOutputs.__init__

    def counted(self, *args):
        made.append(1)
        original(self, *args)

    monkeypatch.setattr(ReferenceOutputs, "__init__", counted)
    before = evaluator.evaluate(small, context(task, dense))
    assert evaluator.evaluate(small, context(task, dense)) == before
    assert len(made) == 1
    content = pickle.dumps(evaluator)
    assert len(content) < 1000
    assert pickle.loads(content).evaluate(small, context(task, dense)) == before
    assert len(made) == 2


def test_the_likeliest_classes_and_the_rest_bound_the_divergence_from_below():
    torch.manual_seed(0)
    logits, others = 3.0 * torch.randn(8, 5, 2000), torch.randn(8, 5, 2000)
    whole, top = KullbackLeibler(-1), KullbackLeibler(-1).smaller()
    assert whole.stored(logits)[0].dtype == torch.float16
    assert [one.shape[-1] for one in top.stored(logits)[:2]] == [512, 512]
    exact, found = whole.of(others, whole.stored(logits)), top.of(others, top.stored(logits))
    assert (found <= exact + 1e-3).all()
    assert (found > 0.5 * exact).all()
    assert top.of(logits, top.stored(logits)).abs().max() < 1e-3


def test_classes_without_probability_and_positions():
    logits = torch.tensor([[[0.0, float("-inf")], [1.0, 2.0]]])
    found = KullbackLeibler(-1).of(torch.zeros(1, 2, 2), KullbackLeibler(-1).stored(logits))
    second = F.kl_div(torch.zeros(2).log_softmax(0), torch.tensor([1.0, 2.0]).log_softmax(0), log_target=True, reduction="sum")
    assert float(found) == pytest.approx((float(torch.tensor(2.0).log()) + float(second)) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("outputs", "inputs", "targets", "kind"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), KullbackLeibler),
        (torch.zeros(4, 3, 5, 5), torch.zeros(4, 1, 5, 5), torch.zeros(4, 5, 5, dtype=torch.int64), KullbackLeibler),
        (torch.zeros(4, 6, 9), torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, 6, dtype=torch.int64), KullbackLeibler),
        (torch.zeros(4, 3), torch.zeros(4, 1), torch.full((4, 3), 1 / 3), KullbackLeibler),
        (torch.zeros(4, 3), torch.zeros(4, 1), torch.randn(4, 3), RelativeError),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8), None, RelativeError),
        (torch.zeros(4, 3), torch.zeros(4, 1), None, KullbackLeibler),
        (torch.zeros(4, 6, 9), torch.zeros(4, 6, dtype=torch.int64), None, KullbackLeibler),
        ({"logits": torch.zeros(4, 3), "hidden": torch.zeros(4, 7)}, torch.zeros(4, 1), None, KullbackLeibler),
        ((torch.zeros(4, 3), [torch.zeros(4, 7)]), torch.zeros(4, 1), None, RelativeError),
    ],
)
def test_auto_takes_the_divergence_where_outputs_are_logits(outputs, inputs, targets, kind):
    assert type(distance_of("auto", outputs, inputs, targets)) is kind
    assert type(distance_of("relative_error", outputs, inputs, targets)) is RelativeError


class Nested(nn.Module):
    """Returns outputs in a mapping of a tuple, and writes into its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> Any:
        inputs.mul_(0.5)
        found = self.layer(inputs)
        return {"boxes": (found, found.square()), "count": 3, "step": torch.tensor(1.0)}


def nested_task(model: nn.Module) -> LoaderTask:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator)) for _ in range(4)]
    return LoaderTask(model, batches, batches, loss=lambda outputs, targets: (outputs["boxes"][0] - targets).square().mean(1))


def test_outputs_of_any_nesting_of_a_network_that_writes_into_its_inputs():
    torch.manual_seed(0)
    model, other = Nested(), Nested()
    task, evaluator = nested_task(model), plain(samples=32, pool=32)
    assert evaluator.evaluate(model, context(task, model)) == {"divergence": 0.0, "divergence_error": 0.0}
    first = evaluator.evaluate(other, context(task, model))
    assert first["divergence"] > 0.0
    assert evaluator.evaluate(other, context(task, model)) == first
    drawn = context(task, model, draw=Draw(16, 0))
    assert evaluator.evaluate(other, drawn) == evaluator.evaluate(other, drawn)


def test_other_shapes_are_told(task, dense):
    cut = nn.Sequential(task.build(), nn.Linear(10, 9))
    with pytest.raises(MeasurementError, match="expected outputs of the dense network's shape"):
        plain().evaluate(cut, context(task, dense))


def test_memory_is_bounded(task, dense, small, monkeypatch):
    monkeypatch.setattr(reference_outputs, "MOST_BYTES", 64 * 4 * 70)
    held = ReferenceOutputs(dense, task, "train", 200, "auto", 32, CPU)
    assert len(held) == 70
    assert plain(samples=200).evaluate(small, context(task, dense))["divergence"] > 0.0


@pytest.mark.parametrize(
    "options", [{"measure": "top1"}, {"split": "test"}, {"samples": 0}, {"pool": 3}, {"batch_norm_batches": -1}]
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DivergenceSettings(**options)
