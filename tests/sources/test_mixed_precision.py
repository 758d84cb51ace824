"""CN112183742B: the indicator from Adam's moments of the training just done, and the loop, against both written out by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.sensitivity.estimates import SensitivitySettings, calibration_batches
from evaluators.sensitivity.loss_increase import omega_table
from evaluators.sensitivity.training_hessian import training_hessian
from evaluators.training.loop import TrainingSettings, train
from evaluators.training.moments import TrainingMoments
from evaluators.training.optimizers import OptimizerSettings
from search.algorithms.progressive import Progressive, ProgressiveSettings
from search.study.trial import Trial
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.quantization.fake_quantize import fake_quantizers
from spaces.quantization.layers import quantized_layers
from tests.evaluators.small_task import digits_task
from tests.search.algorithms.bit_space import BitSpace, bit_problem

CPU = torch.device("cpu")


def test_the_indicator_is_half_the_sum_of_moment_times_squared_error() -> None:
    """``1/2 B sum_i v_i / (1 - beta2^t) / f^2 (Q_b(w_i) - w_i)^2``; activations by the gradients of the calibration samples."""
    task = digits_task("spaces.networks.digits_cnn", width=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.build()
    training = TrainingSettings(
        epochs=1, batch_size=16, optimizer=OptimizerSettings("adam", lr=1e-3, weight_decay=0.0), autocast="off"
    )
    history = train(model, task, training, seed=0, device=CPU)
    names = [name for name, _ in model.named_parameters()]
    v = {names[place]: history.optimizer.tensors[f"{place}.exp_avg_sq"] for place in range(len(names))}
    t = int(history.optimizer.tensors["0.step"])
    assert t == task.size("train") // 16

    images = [inputs for inputs, _ in task.batches("train", 64, limit=64)]
    space = BitWidth(model, task.example_inputs(), BitWidthSettings((2, 4, 8), (4, 8), None), batches=images)
    prepared = space.prepare(model, space.uniform(8, 8)).eval()
    known = training_hessian(TrainingMoments.of(history.optimizer, training), model, prepared)
    settings = SensitivitySettings(samples=32, batch_size=8)
    options = {name: domain.options for name, domain in space.domains.items()}
    table, found = omega_table(prepared, space.quantizers, options, task, settings, CPU, torch.Generator(), known)
    assert found.moments == "training"

    folds = dict(space.found.folds)
    for layer, module in quantized_layers(prepared).items():
        factor = torch.ones(len(module.weight))
        if layer in folds:
            norm = model.get_submodule(folds[layer])
            factor = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        weight = module.weight.detach()
        hessian = 16 * v[f"{layer}.weight"] / (1 - 0.999**t) / factor.reshape(-1, *[1] * (weight.dim() - 1)) ** 2
        for bits in (2, 4, 8):
            error = module.weight_quantizer.quantized(weight, bits) - weight
            expected = 0.5 * float((hessian * error**2).double().sum())
            assert table[f"{layer}.weight"][bits] == pytest.approx(expected, rel=1e-4)

    layer, quantizer = "features.3", fake_quantizers(prepared)["features.3.input_quantizer"]
    for module in fake_quantizers(prepared).values():
        module.enabled = False
    entered: list[torch.Tensor] = []

    def watch(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        args[0].retain_grad()
        entered.append(args[0])

    handle = prepared.get_submodule(layer).register_forward_pre_hook(watch)
    total = 0.0
    for inputs, targets in calibration_batches(task, settings, CPU):
        for place in range(len(inputs)):
            F.cross_entropy(prepared(inputs[place : place + 1]), targets[place : place + 1]).backward()
            z = entered.pop()
            error = quantizer.quantized(z.detach(), 4) - z.detach()
            total += 0.5 * float((z.grad**2 * error**2).sum())
    handle.remove()
    assert table[f"{layer}.activation"][4] == pytest.approx(total / 32, rel=1e-3)


def test_the_loop_draws_n_candidates_takes_the_smallest_indicator_trains_it_and_repeats() -> None:
    space = BitSpace(6, bits=(2, 3, 4, 8), activations=(8,))
    problem = dataclasses.replace(bit_problem(space, size_bytes=0.4), trains=True)
    n = 5
    settings = ProgressiveSettings(candidates=n, layers=0.5, indicator="raw", pick="uniform")
    algorithm, trials = Progressive(problem, settings, seed=0), []
    table = problem.tables["omega"]
    current = None
    lowered: dict[str, int] = {}
    steps = 0
    while not algorithm.finished:
        proposals = algorithm.ask(100)
        if current is None or proposals[0].fidelity == 0.0:
            judged = []
        for proposal in proposals:
            values = proposal.candidate.values
            omega = sum(table[name][bits] for name, bits in values.items())
            if current is not None and proposal.fidelity == 0.0:
                changed = {name for name in values if values[name] != current[name]}
                assert 1 <= len(changed) <= 3
                for name in changed:
                    lower = [bits for bits in (2, 3, 4, 8) if bits < current[name]]
                    assert values[name] == lower[-1]
                    lowered[name] = lowered.get(name, 0) + 1
                judged.append((omega, values))
            elif current is not None:
                assert values == min(judged, key=lambda one: one[0])[1]
                current, steps = values, steps + 1
            if current is None:
                current = values
                assert set(values.values()) == {8}
            trials.append(Trial(len(trials), proposal, "complete", {"omega": omega, **space.costs(proposal.candidate)}))
            algorithm.tell(trials[-1])
        assert len(judged) <= n
    assert steps >= 3
    assert problem.targets[0].violation(trials[-1].metrics) == 0.0
    assert len(lowered) >= 5, "any layer may be drawn"
