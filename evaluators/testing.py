"""Check that an evaluator, a backend or a metric keeps its interface: contract tests for these and for your own.

Every function raises AssertionError with the broken promise, and returns None.
"""

from __future__ import annotations

import copy
import json
import math

import torch
from torch import nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.latency.backends.base import Backend, DeviceName
from evaluators.metrics import Metric, metric_from_json
from evaluators.task import Task
from spaces.layers.shapes import LayerShape
from spaces.testing import check_settings


def check_evaluator(kind: type[Evaluator], task: Task, settings: object = None) -> None:
    """Check an evaluator's settings, metrics, randomness and repeatability on the reference network of ``task``.

    Args:
        kind: The evaluator's class.
        task: A small task: the network is measured four times.
        settings: Settings of the class; by default ``kind.Settings()``.
    """
    check_settings(kind.Settings)
    evaluator = kind(kind.Settings() if settings is None else settings)
    promised = evaluator.metrics_for(task)
    for name, metric in promised.items():
        check_metric(name, metric)
    assert set(evaluator.metrics) <= set(promised), "metrics_for(task) leaves out some of metrics"
    state = torch.get_rng_state()
    for fidelity in (1.0, 0.1):
        found = _evaluated(evaluator, task, fidelity)
        assert set(found) == set(promised), f"evaluate returns {sorted(found)}, metrics_for promises {sorted(promised)}"
        for name, value in found.items():
            assert isinstance(value, float), f"{name}: expected a float, got {type(value).__name__}"
            assert math.isfinite(value), f"{name}: expected a finite value, got {value}"
        again = _evaluated(evaluator, task, fidelity)
        assert not evaluator.repeatable or found == again, f"repeatable, yet two evaluations give {found} and {again}"
    assert torch.equal(state, torch.get_rng_state()), "evaluate draws from torch's global generator; use context.generator"


def check_backend(backend: Backend, device: DeviceName = "cpu") -> None:
    """Check that a backend times a small network and, if it supports them, single layers.

    Args:
        backend: The backend.
        device: Device to time on, one of this machine.
    """
    assert backend.label, "label: expected the runtime's name"
    assert backend.version(), "version: expected the version of the installed runtime"
    assert device in backend.devices, f"devices: expected {device} among {backend.devices}"
    backend.require(device)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    before = copy.deepcopy(network.state_dict())
    inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    content = backend.export(network, inputs)
    assert isinstance(content, bytes), f"export: expected bytes, got {type(content).__name__}"
    same = all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert same, "export changes the network's tensors"
    runs = [backend.build(content, inputs, device, threads=1)]
    if backend.supports(device):
        layer = LayerShape("conv", 4, 8, (8, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
        layers = backend.layer_runs(layer, 32, 32, 1, device, 1)
        assert 1 <= len(layers) <= 2, f"layer_runs: expected a layer's run and maybe its surroundings', got {len(layers)} runs"
        runs.extend(layers)
    for run in runs:
        milliseconds = run()
        assert isinstance(milliseconds, float), f"a run returns milliseconds, a float; got {type(milliseconds).__name__}"
        assert 0.0 < milliseconds < 60_000.0, f"a run of a tiny network took {milliseconds} ms"


def check_metric(name: str, metric: Metric) -> None:
    """Check that tables, notes and figures can show a metric.

    Args:
        name: The metric's name in configurations.
        metric: Its description.
    """
    assert name.isidentifier(), f"{name!r}: expected a name of letters, digits and underscores"
    assert metric.unit, f"{name}: expected a unit in words"
    assert metric.named(name).label, f"{name}: expected a label"
    assert not (metric.is_cost and metric.direction == "maximize"), f"{name}: a cost is minimized"
    assert metric_from_json(json.loads(json.dumps(metric.to_json()))) == metric, f"{name}: JSON loses a part of the description"
    for value in (0.0, 0.5, 1.0, 12.5, 1e7):
        for text in (metric.text(value), metric.brief(value), metric.change(1.0, value), metric.difference(1.0, value)):
            assert text.strip(), f"{name}: no text for {value}"


def _evaluated(evaluator: Evaluator, task: Task, fidelity: float) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    context = EvaluationContext(task, generator, torch.device("cpu"), fidelity, task.reference_model(), {})
    return evaluator.evaluate(task.reference_model(), context)
