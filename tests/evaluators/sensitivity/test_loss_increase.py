"""Omega's tables and its evaluator, against sums by hand and against the loss itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from evaluators.base import EvaluationContext
from evaluators.sensitivity.estimates import KINDS, SensitivitySettings, calibration_batches
from evaluators.sensitivity.loss_increase import LossIncrease, omega, omega_table
from evaluators.sensitivity.measured_increase import divergence_table, loss_increases
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.networks import digits_cnn
from spaces.quantization.layers import quantized_layers
from tests.evaluators.sensitivity.small_networks import seeded
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")
OPEN = BitWidthSettings(weight_bits=(2, 4, 8), activation_bits=(3, 8), first_last_bits=None)


@pytest.fixture(scope="module")
def task():
    return digits_task("spaces.networks.digits_cnn", width=4)


@pytest.fixture(scope="module")
def model():
    return seeded(lambda: digits_cnn(width=4), gain=1.5).eval()


@pytest.fixture(scope="module")
def space(model, task):
    batches = [inputs for inputs, _ in task.batches("train", 64, limit=128)]
    return BitWidth(model, task.example_inputs(), OPEN, batches=batches)


def options(space):
    return {name: domain.options for name, domain in space.domains.items()}


def table_of(space, model, task, **settings):
    chosen = SensitivitySettings(**{"sensitivity": "fisher", "samples": 64, **settings})
    prepared = space.prepare(model, next(iter(space.starting_points()))).eval()
    generator = torch.Generator().manual_seed(0)
    return omega_table(prepared, space.quantizers, options(space), task, chosen, CPU, generator), prepared, chosen


def test_weights_are_weighed_by_their_second_derivatives(space, model, task):
    (table, found), prepared, settings = table_of(space, model, task, sensitivity="adam", batch_size=16)
    layer = quantized_layers(prepared)["features.0"]
    moment = torch.zeros_like(layer.weight)
    for module in prepared.modules():
        if hasattr(module, "enabled"):
            module.enabled = False
    for inputs, targets in calibration_batches(task, settings, CPU):
        prepared.zero_grad()
        F.cross_entropy(prepared(inputs), targets).backward()
        moment = 0.999 * moment + 0.001 * layer.weight.grad**2
    second, weight = 16 * moment / (1 - 0.999**4), layer.weight.detach()
    for bits in (2, 4, 8):
        rounded = layer.weight_quantizer.quantized(weight, bits)
        expected = 0.5 * float((second * (rounded - weight) ** 2).sum())
        assert table["features.0.weight"][bits] == pytest.approx(expected, rel=1e-4)
    assert found.average["features.0.weight"] == pytest.approx(float(second.mean()), rel=1e-4)


def test_activations_take_each_samples_own_gradient(space, model, task):
    (table, _), prepared, settings = table_of(space, model, task)
    quantizer = prepared.classifier.input_quantizer
    total, samples = 0.0, 0
    seen: list[torch.Tensor] = []
    handle = quantizer.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    for module in prepared.modules():
        if hasattr(module, "enabled"):
            module.enabled = False
    for inputs, targets in calibration_batches(task, settings, CPU):
        for one, target in zip(inputs, targets, strict=True):
            with torch.no_grad():
                prepared(one[None])
            entering = seen.pop().requires_grad_()
            F.cross_entropy(F.linear(entering, prepared.classifier.weight, prepared.classifier.bias), target[None]).backward()
            values = entering.detach()
            total += 0.5 * float((entering.grad**2 * (quantizer.quantized(values, 3) - values) ** 2).sum())
            samples += 1
    handle.remove()
    assert table["classifier.activation"][3] == pytest.approx(total / samples, rel=1e-3)


def test_a_residual_addition_counts_both_operands_and_each_reader_only_its_own(space, model, task):
    (table, _), _, _ = table_of(space, model, task)
    additions = [name for name in table if name.endswith("add.activation")]
    assert additions
    assert all(table[name][3] > table[name][8] > 0.0 for name in additions)


@pytest.mark.parametrize("form", ["weight", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_more_bits_cost_less_with_every_kind(space, model, task, kind, form):
    (table, _), _, _ = table_of(space, model, task, sensitivity=kind, form=form, samples=48, tolerance=0.3, most_rounds=6)
    assert set(table) == set(space.domains)
    for name, entries in table.items():
        assert list(entries) == list(space.domains[name].options)
        assert all(value >= 0.0 for value in entries.values())
        assert list(entries.values()) == sorted(entries.values(), reverse=True), name


def test_a_tied_decision_adds_up_weight_and_input(model, task):
    tied = BitWidth(
        model,
        task.example_inputs(),
        BitWidthSettings(weight_bits=(3, 8), activation_bits=(3, 8), first_last_bits=None, tie="layer"),
        batches=[inputs for inputs, _ in task.batches("train", 64, limit=128)],
    )
    apart = BitWidth(
        model,
        task.example_inputs(),
        BitWidthSettings(weight_bits=(3, 8), activation_bits=(3, 8), first_last_bits=None),
        batches=[inputs for inputs, _ in task.batches("train", 64, limit=128)],
    )
    (one, _), _, _ = table_of(tied, model, task)
    (two, _), _, _ = table_of(apart, model, task)
    whole = two["classifier.weight"][3] + two["classifier.activation"][3]
    assert one["classifier.weight"][3] == pytest.approx(whole, rel=1e-5)


def test_the_evaluator_reads_the_table_and_computes_anew_after_training(space, model, task):
    (table, _), _, settings = table_of(space, model, task)
    candidate = Candidate({name: domain.options[-1] for name, domain in space.domains.items()})
    evaluator, network = LossIncrease(settings), space.realize(model, candidate)
    generator = torch.Generator().manual_seed(0)

    def evaluate(**more):
        return evaluator.evaluate(network, EvaluationContext(task, generator, CPU, 1.0, model, {}, candidate, **more))["omega"]

    read = evaluate(tables={"omega": table})
    assert read == sum(entries[candidate.values[name]] for name, entries in table.items())
    computed = evaluate(tables={"omega": table}, trained=True)
    assert computed == pytest.approx(read, rel=0.3)
    with torch.no_grad():
        network.classifier.weight.mul_(3.0)
    assert evaluate(tables={"omega": table}) == read
    assert evaluate(tables={"omega": table}, trained=True) > 1.5 * computed


def test_divergence_is_the_distance_that_one_decision_adds(space, model, task):
    settings = SensitivitySettings("divergence", samples=128)
    batches = calibration_batches(task, settings, CPU, 64)
    most = {name: max(domain.options) for name, domain in space.domains.items()}

    def prepare(bits):
        return space.prepare(model, Candidate(dict(bits))).eval()

    def distance(network):
        inputs = torch.cat([batch for batch, _ in batches])
        with torch.no_grad():
            expected, found = model(inputs).log_softmax(1), network(inputs).log_softmax(1)
        return float((expected.exp() * (expected - found)).sum(1).mean())

    table = divergence_table(prepare, most, options(space), model, task, batches)
    name = "features.3.weight"
    assert list(table) == list(space.domains)
    assert table[name][8] == 0.0
    assert table[name][2] > table[name][4] > 0.0
    rise = distance(prepare({**most, name: 2})) - distance(prepare(most))
    assert table[name][2] == pytest.approx(rise, rel=1e-3)
    context = EvaluationContext(task, torch.Generator(), CPU, 1.0, model, {}, trained=True)
    network = prepare({**most, name: 2})
    assert LossIncrease(settings).evaluate(network, context)["omega"] == pytest.approx(distance(network), rel=1e-3)


def test_the_loss_of_one_lowered_decision_is_measured_with_its_error(space, model, task):
    settings = SensitivitySettings(samples=128)
    batches = calibration_batches(task, settings, CPU, 32)
    most = {name: max(domain.options) for name, domain in space.domains.items()}

    def prepare(bits):
        return space.prepare(model, Candidate(dict(bits))).eval()

    name = "features.3.weight"
    found = loss_increases(prepare, most, {name: 2}, task, batches)[name]
    losses = []
    for network in (prepare({**most, name: 2}), prepare(most)):
        with torch.no_grad():
            losses.append([float(F.cross_entropy(network(inputs), targets)) for inputs, targets in batches])
    changes = torch.tensor(losses[0], dtype=torch.float64) - torch.tensor(losses[1], dtype=torch.float64)
    assert found.value == pytest.approx(float(changes.mean()))
    assert found.standard_error == pytest.approx(float(changes.std() / len(batches) ** 0.5))


def test_nothing_is_left_behind(space, model, task):
    network = space.realize(model, next(iter(space.starting_points())))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    omega(network, task, SensitivitySettings(sensitivity="fisher", samples=16), CPU, torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.enabled for module in network.modules() if hasattr(module, "enabled"))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_quantizers_has_none(task, model):
    assert omega(model, task, SensitivitySettings(), CPU, torch.Generator()) == 0.0


def test_a_negative_average_counts_as_zero_and_is_told():
    from evaluators.sensitivity.estimates import Sensitivity

    found = Sensitivity("hutchinson", {"a": torch.tensor(0.0), "b": torch.tensor(2.0)}, {"a": -1.0, "b": 2.0}, {})
    assert found.negative == ["a"]
    assert found.increase("a", torch.ones(3)) == 0.0
    assert found.increase("b", torch.ones(3)) == 3.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 1}, "samples: expected at least 2"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"samples": 8, "batch_size": 8}, "batch_size: expected at most half"),
        ({"beta": 1.0}, "beta: expected a number above 0 and below 1"),
        ({"tolerance": -1.0}, "tolerance: expected a number above 0"),
        ({"most_rounds": 1}, "most_rounds: expected at least 2"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SensitivitySettings(**settings)
