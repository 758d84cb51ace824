from __future__ import annotations

import copy
import io
from collections.abc import Sequence

import onnx
import pytest
import torch
from torch import nn

from evaluators.base import EvaluationContext
from evaluators.latency.backends.base import Conditions, LatencyError, Program, find_backend, program_of
from evaluators.latency.latency import Latency, LatencySettings
from evaluators.latency.timers import LayerRequest, LocalTimer
from evaluators.latency.timing import Timing
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.errors import SecateursError
from tests.evaluators.small_task import digits_task

SHORT = {"warmup": 1, "repetitions": 5}


def context(task: object, costs: dict[str, float] | None = None, candidate: Candidate | None = None) -> EvaluationContext:
    generator = torch.Generator().manual_seed(0)
    return EvaluationContext(task, generator, torch.device("cpu"), 1.0, nn.Identity(), costs or {}, candidate)  # type: ignore[arg-type]


class Scripted:
    """Knows beforehand what it times, and remembers the programs."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.conditions = Conditions()

    def time(self, programs: Sequence[Program], conditions: Conditions) -> list[Timing]:
        self.programs, self.conditions = list(programs), conditions
        return [Timing(float(place + 1), 0.5, 9.0, conditions.repetitions) for place in range(len(programs))]

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        return [1.0 for _ in requests]

    def machine(self, conditions: Conditions) -> str:
        return "scripted"


@pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
def test_a_network_is_timed_and_left_as_it_was(backend: str) -> None:
    task = digits_task()
    model = task.reference_model().train()
    before = copy.deepcopy(model.state_dict())
    evaluator = Latency(LatencySettings(backend=backend, **SHORT))  # type: ignore[arg-type]
    found = evaluator.evaluate(model, context(task))
    assert list(found) == ["latency_ms"]
    assert 0.0 < found["latency_ms"] < 1000.0
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_a_network_is_compiled() -> None:
    task = digits_task()
    found = Latency(LatencySettings(backend="compile", **SHORT)).evaluate(task.reference_model(), context(task))  # type: ignore[arg-type]
    assert 0.0 < found["latency_ms"] < 1000.0


def test_networks_are_timed_in_turn_with_the_settings_given() -> None:
    task, timer = digits_task(), Scripted()
    settings = LatencySettings(batch_size=3, threads=2, repetitions=40, warmup=7, seconds=2.5)
    timings = Latency(settings, timer).timings([task.reference_model(), task.reference_model()], task, fidelity=0.5)
    assert [timing.median for timing in timings] == [1.0, 2.0]
    assert timer.conditions == Conditions("onnxruntime", "cpu", threads=2, warmup=7, repetitions=20, seconds=2.5)
    assert [tuple(program.inputs.shape) for program in timer.programs] == [(3, 1, 8, 8)] * 2


def test_a_program_answers_as_the_network_does() -> None:
    task = digits_task()
    model = task.reference_model().eval()
    program = program_of(model, task, 2, Conditions(backend="eager"))
    loaded = torch.export.load(io.BytesIO(program.content)).module()
    with torch.no_grad():
        assert torch.allclose(loaded(program.inputs), model(program.inputs), atol=1e-6)


def test_a_quantized_network_is_timed_as_it_is_stored() -> None:
    task = digits_task()
    space = BitWidth(task.reference_model(), task.example_inputs(), BitWidthSettings(weight_bits=(4, 8), activation_bits=(8,)))
    model = space.realize(task.reference_model(), space.uniform(4, 8))
    content = program_of(model, task, 1, Conditions()).content
    kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    (timing,) = LocalTimer().time([Program(content, task.example_inputs())], Conditions(warmup=1, repetitions=5))
    assert timing.median > 0.0


def test_in_table_mode_a_candidate_is_told_by_the_space_and_the_reference_is_measured() -> None:
    task, timer = digits_task(), Scripted()
    evaluator = Latency(LatencySettings(mode="table"), timer)
    candidate = Candidate({"a": 1})
    model = task.reference_model()
    assert evaluator.evaluate(model, context(task, {"latency_ms": 0.25}, candidate)) == {"latency_ms": 0.25}
    assert not timer.programs
    with pytest.raises(SecateursError, match="expected mode: measured"):
        evaluator.evaluate(model, context(task, {}, candidate))
    assert evaluator.evaluate(model, context(task)) == {"latency_ms": 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"repetitions": 1}, "repetitions: expected at least 5"),
        ({"seconds": 0.0}, "seconds: expected a number above 0"),
        ({"mode": "table", "backend": "compile"}, "mode: a table .* compile on cpu"),
        ({"mode": "table", "device": "cuda"}, "mode: a table .* onnxruntime on cuda"),
        ({"resource": ""}, "resource: expected a name or null"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatencySettings(**options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("backend", "message"), [("onnxruntime", "onnxruntime-gpu"), ("eager", "finds no GPU here")])
def test_without_a_gpu_there_is_a_clear_error(backend: str, message: str) -> None:
    with pytest.raises(LatencyError, match=message):
        find_backend(backend).require("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_a_network_is_timed_on_the_gpu(backend: str) -> None:
    task = digits_task()
    settings = LatencySettings(backend=backend, device="cuda", **SHORT)  # type: ignore[arg-type]
    assert 0.0 < Latency(settings).evaluate(task.reference_model(), context(task))["latency_ms"] < 1000.0


def test_a_network_that_can_not_be_exported_is_a_clear_error() -> None:
    class Deciding(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs if inputs.sum() > 0 else -inputs

    for backend, remedy in (("onnxruntime", "backend: eager"), ("eager", "backend: onnxruntime")):
        with pytest.raises(SecateursError, match=remedy):
            Latency(LatencySettings(backend=backend, **SHORT)).timings([Deciding()], digits_task())  # type: ignore[arg-type]
