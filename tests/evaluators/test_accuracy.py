import dataclasses

import pytest
import torch
from torch import nn

from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.base import Draw, EvaluationContext
from evaluators.batch_norm import recalibrate
from evaluators.tasks.measure import measure
from spaces.execution.evaluation_mode import evaluation_mode
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")


def context(task, fidelity=1.0):
    return EvaluationContext(task, torch.Generator(), CPU, fidelity, task.build(), {})


def by_hand(model, task, samples):
    inputs, targets = next(iter(task.batches("search", samples, limit=samples)))
    with torch.no_grad():
        outputs = model.eval()(inputs)
    return {
        "loss": float(nn.functional.cross_entropy(outputs, targets)),
        "top1": float((outputs.argmax(1) == targets).float().mean()),
    }


def test_measure_equals_the_mean_over_all_samples():
    task = digits_task()
    model = task.reference_model().train()
    expected = by_hand(model, task, 100)
    model.train()
    assert measure(model, task, "search", batch_size=33) == pytest.approx(expected, rel=1e-5)
    assert all(module.training for module in model.modules())
    assert measure(model, task, "search", batch_size=64, limit=70) == pytest.approx(by_hand(model, task, 70), rel=1e-5)


def test_evaluation_mode_puts_back_every_part():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    model[0].eval()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True]


def test_recalibration_is_the_plain_average_and_restores_modes_and_momenta():
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(32, 3, generator=generator) * (i + 1) + i, torch.zeros(32)) for i in range(3)]
    norm = nn.BatchNorm1d(3, momentum=0.25)
    model = nn.Sequential(norm, nn.Dropout(0.9), nn.BatchNorm1d(3, track_running_stats=False))
    model[1].eval()
    norm.running_mean.fill_(100.0)
    recalibrate(model, batches, lambda network, inputs: network(inputs))
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean(0) for b, _ in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var(0) for b, _ in batches]).mean(0))
    assert norm.momentum == 0.25
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_recalibration_without_batches_or_layers_changes_nothing():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(7.0)
    recalibrate(norm, [], lambda network, inputs: network(inputs))
    assert float(norm.running_mean.sum()) == 21.0

    def unread():
        raise AssertionError("batches were read for a network without BatchNorm")
        yield

    recalibrate(nn.Linear(2, 2), unread(), lambda network, inputs: network(inputs))


def test_evaluator_recalibrates_and_a_ruined_network_recovers():
    task = digits_task()
    model = task.reference_model()
    expected = Accuracy(AccuracySettings(batch_size=64)).evaluate(model, context(task))
    model.bn.running_mean.fill_(50.0)
    ruined = measure(model, task, "search")["loss"]
    again = Accuracy(AccuracySettings(batch_size=64)).evaluate(model, context(task))
    assert again == pytest.approx(expected)
    assert abs(ruined - again["loss"]) > 0.01


def test_evaluation_is_the_same_every_time_and_draws_nothing():
    task = digits_task()
    evaluator = Accuracy(AccuracySettings(batch_size=64))
    state = torch.get_rng_state()
    first = evaluator.evaluate(task.reference_model(), context(task))
    second = evaluator.evaluate(task.reference_model(), context(task))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("size", "fidelity", "samples", "batches", "calibrated"),
    [
        (32, 1.0, 100, 4, 128),
        (32, 0.5, 50, 2, 64),
        (32, 0.01, 1, 2, 64),
        (128, 1.0, 100, 2, 256),
        (128, 0.7, 70, 2, 180),
        (128, 0.1, 10, 2, 128),
    ],
)
def test_fidelity_takes_the_first_share_and_fewer_smaller_batches(monkeypatch, size, fidelity, samples, batches, calibrated):
    task, asked = digits_task(), []
    original = task.batches

    def recorded(split, batch_size, generator=None, limit=None):
        found = list(original(split, batch_size, generator, limit))
        asked.append((split, generator, sum(len(inputs) for inputs, _ in found), len(found)))
        return found

    model = task.reference_model()
    monkeypatch.setattr(task, "batches", recorded)
    Accuracy(AccuracySettings(batch_size=size, batch_norm_batches=4)).evaluate(model, context(task, fidelity))
    assert asked[0] == ("train", None, calibrated, batches)
    assert asked[1][:3] == ("search", None, samples)


def test_zero_batches_leaves_the_statistics_alone():
    task = digits_task()
    model = task.reference_model()
    before = model.bn.running_mean.clone()
    Accuracy(AccuracySettings(batch_norm_batches=0)).evaluate(model, context(task))
    assert torch.equal(before, model.bn.running_mean)


def test_metrics_are_those_returned():
    task = digits_task()
    evaluator = Accuracy(AccuracySettings())
    assert set(evaluator.evaluate(task.reference_model(), context(task))) == set(evaluator.metrics_for(task))
    assert evaluator.metrics_for(task)["top1"].direction == "maximize"
    assert evaluator.metrics_for(task)["loss"].unit == "nats"


def test_the_test_split_is_refused():
    with pytest.raises(ValueError, match="read for the report only"):
        AccuracySettings(split="test")


def test_a_draw_takes_other_samples_by_seed_and_one_of_held_out_samples_the_whole_split():
    task = digits_task()
    model, evaluator = task.reference_model(), Accuracy(AccuracySettings(batch_norm_batches=0))

    def drawn(draw):
        return evaluator.evaluate(model, dataclasses.replace(context(task), draw=draw))

    first, second = drawn(Draw(40, 0)), drawn(Draw(40, 1))
    assert first == drawn(Draw(40, 0)) != second
    assert drawn(Draw(40, 0, held_out=True)) == evaluator.evaluate(model, context(task))
    assert drawn(Draw(1000, 3))["loss"] == pytest.approx(evaluator.evaluate(model, context(task))["loss"], rel=1e-5)


@pytest.mark.parametrize(("size", "limit", "expected"), [(32, 100, 100), (32, 70, 69), (64, 70, 70), (256, 100, 100)])
def test_a_draw_of_several_batches_takes_as_many_samples_as_are_asked_for(size, limit, expected):
    task, seen = digits_task(), []
    model = task.reference_model()
    model.register_forward_hook(lambda module, args, outputs: seen.append(len(outputs)))
    measure(model, task, "search", size, limit=limit, generator=torch.Generator().manual_seed(0))
    assert sum(seen) == expected
