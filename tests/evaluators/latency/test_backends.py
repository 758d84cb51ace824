from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluators.latency.backends import BACKENDS
from evaluators.latency.backends.base import Backend, Conditions, DeviceName, find_backend
from evaluators.latency.latency import Latency, LatencySettings
from evaluators.latency.layer_cache import LayerCache
from evaluators.latency.timers import LayerRequest, LocalTimer
from evaluators.latency.timing import Run
from evaluators.testing import check_backend
from search.report.latency import latency_text
from spaces.layers.shapes import LayerShape
from tests.evaluators.latency.test_table import CONV
from tests.evaluators.small_task import digits_task


class Abacus(Backend):
    """A runtime that takes a microsecond for every weight."""

    label = "an abacus"

    def version(self) -> str:
        return "3.1"

    def export(self, module: nn.Module, inputs: Tensor) -> bytes:
        return str(sum(parameter.numel() for parameter in module.parameters())).encode()

    def build(self, content: bytes, inputs: Tensor, device: DeviceName, threads: int) -> Run:
        milliseconds = int(content) / 1e3
        return lambda: milliseconds

    def supports(self, device: DeviceName, weight_bits: int = 32, input_bits: int = 32) -> bool:
        return weight_bits >= 8

    def layer_runs(
        self, shape: LayerShape, weight_bits: int, input_bits: int, batch_size: int, device: DeviceName, threads: int
    ) -> Sequence[Run]:
        return [lambda: 5.0, lambda: 2.0]


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(BACKENDS, "abacus", f"{__name__}:Abacus")
    return "abacus"


def test_one_file_and_one_line_add_a_backend(abacus: str, tmp_path: Path) -> None:
    task = digits_task()
    model = task.reference_model()
    settings = LatencySettings(backend=abacus, cache=str(tmp_path))
    (timing,) = Latency(settings).timings([model], task)
    assert timing.median == sum(parameter.numel() for parameter in model.parameters()) / 1e3
    assert LocalTimer().time_layers([LayerRequest(CONV, 8, 8, 1)], settings.conditions) == [3.0]
    assert LatencySettings(backend=abacus, mode="table").mode == "table"
    caches = [LayerCache(str(tmp_path), "machine", Conditions(backend=name)) for name in BACKENDS]
    assert len({cache.path for cache in caches}) == len(BACKENDS)
    shown = {"backend": abacus, "threads": 1, "device": "cpu", "machine": "a desk", "batch_size": 1}
    assert latency_text({"latency": shown}) == "an abacus on a desk, 1 thread, 1 sample a run, the networks run in turn."
    check_backend(find_backend(abacus))


def test_a_backend_of_ones_own_is_named_by_its_import_path() -> None:
    assert find_backend(f"{__name__}:Abacus").label == "an abacus"
    assert LatencySettings(backend=f"{__name__}:Abacus").backend == f"{__name__}:Abacus"


def test_a_misspelt_backend_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^backend: unknown backend 'onnxrutime'; did you mean 'onnxruntime'\?"):
        LatencySettings(backend="onnxrutime")


def test_a_device_that_the_backend_has_not_is_refused(abacus: str) -> None:
    with pytest.raises(ValueError, match="^device: expected cpu for backend abacus, got 'cuda'"):
        LatencySettings(backend=abacus, device="cuda")


def test_layers_of_bits_that_a_backend_has_not_are_refused_with_the_remedy(abacus: str) -> None:
    with pytest.raises(Exception, match="4-bit weights needs backend: onnxruntime, .* got backend: abacus"):
        LocalTimer().time_layers([LayerRequest(CONV, 4, 8, 1)], Conditions(backend=abacus))


def test_conditions_travel_to_another_process() -> None:
    conditions = Conditions(threads=2)
    assert pickle.loads(pickle.dumps(conditions)) == conditions


def test_a_report_imports_nothing_by_a_name_that_it_holds() -> None:
    shown = {"backend": "os.path:join", "threads": 1, "device": "cpu", "machine": "a desk", "batch_size": 2}
    assert latency_text({"latency": shown}).startswith("os.path:join on a desk")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_eager_backend_needs_a_gpu_for_cuda() -> None:
    with pytest.raises(Exception, match="finds no GPU here"):
        find_backend("eager").require("cuda")
