"""Measurements that fail at the end of a run are named, and cost nothing else."""

from __future__ import annotations

import errno
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluators.base import Metric
from search.run.failures import Failures, failures_of
from search.run.measurements import Measurements, measure_row
from tests.search.executors.test_trial_evaluator import Recording
from tests.search.small_space import PointTask

CPU = torch.device("cpu")


class Saying:
    """Failures, and what the log got of them."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.failures = Failures(lambda text, level: self.lines.append((text, level)))

    @property
    def errors(self) -> dict[str, str]:
        return dict(failures_of({"failures": self.failures.rows}))


class Scoring(PointTask):
    """A task whose score is what a person made of it."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self._found = found

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found  # type: ignore[no-any-return]


class Offended(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        raise RuntimeError("a size\nmismatch")


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (ZeroDivisionError("by the number of hits"), "ZeroDivisionError: by the number of hits"),
        (None, "MeasurementError: score: expected a tensor of shape (N,) by name, got None"),
        ({"top1": None}, "MeasurementError: score top1: expected a tensor, got None"),
        ({"top5": torch.ones(1)}, "MeasurementError: score: expected top1 among the scores, got ['top5']"),
    ],
    ids=["an exception", "nothing", "nothing by name", "another score"],
)
def test_a_score_that_fails_leaves_the_costs(found: Any, error: str, tmp_path: Path) -> None:
    saying, task = Saying(), Scoring(found)
    for again in range(2):
        kept = Measurements(tmp_path / "m.json", saying.failures)
        row = kept.row("result", "key", lambda: measure_row("result", task.build(), task, CPU, saying.failures))
        assert (row["top1"], row["loss"], row["metrics"]) == (None, None, {})
        assert row["macs"] == 12
        assert saying.failures.rows == [{"what": "result: scores on the test split", "error": error}] * (again + 1)
    assert not (tmp_path / "m.json").exists()
    levels = [level for _, level in saying.lines]
    assert levels == [logging.WARNING, logging.DEBUG] * 2
    assert "Traceback" in saying.lines[1][0]
    task._found = {"top1": torch.ones(1)}
    kept = Measurements(tmp_path / "m.json", saying.failures)
    assert kept.row("result", "key", lambda: measure_row("result", task.build(), task, CPU, saying.failures))["top1"] > 0
    assert (tmp_path / "m.json").exists()


def test_a_score_of_nan_is_null_and_named(tmp_path: Path) -> None:
    saying, task = Saying(), Scoring({"top1": torch.tensor([math.nan]), "extra": torch.ones(1)})
    kept = Measurements(tmp_path / "m.json", saying.failures)
    row = kept.row("uniform", "key", lambda: measure_row("uniform", task.build(), task, CPU, saying.failures))
    assert row["top1"] is None
    assert row["metrics"]["extra"] > 0
    assert row["loss"] > 0
    assert saying.errors == {"uniform: top1": "expected a finite number, got nan"}
    assert not (tmp_path / "m.json").exists()


def test_a_network_that_fails_names_the_layer_and_a_cost_of_one_s_own_its_evaluator() -> None:
    class Priced(Recording):
        @property
        def metrics(self) -> dict[str, Metric]:
            return {"price": Metric("euro", "minimize")}

        def evaluate(self, model: nn.Module, context: Any) -> Any:
            return None

    saying, task = Saying(), PointTask()
    model = nn.Sequential(nn.ReLU(), nn.Sequential(Offended(2, 2)))
    row = measure_row("result", model, task, CPU, saying.failures, [Priced("price", 0, [])])
    assert [row[name] for name in ("top1", "macs", "size_bytes", "latency_ms")] == [None] * 4
    assert "price" not in row
    assert saying.errors["result: scores on the test split"] == "RuntimeError: a size (in layer 1.0 (Offended))"
    assert saying.errors["result: costs"].endswith("(in layer 1.0 (Offended))")
    assert (
        saying.errors["result: Priced"]
        == "MeasurementError: Priced.evaluate: expected a number for each of ['price'], got None"
    )


def test_numbers_that_json_does_not_know_are_counted_by_place() -> None:
    saying = Saying()
    report = {"a": [{"loss": math.nan}, {"loss": 1.0}, {"loss": math.nan}], "b": (1, math.inf), "c": {"d": None}}
    assert saying.failures.finite("", report) == {
        "a": [{"loss": None}, {"loss": 1.0}, {"loss": None}],
        "b": [1, None],
        "c": {"d": None},
    }
    assert math.isnan(report["a"][0]["loss"])  # type: ignore[call-overload,index]
    assert saying.errors == {
        "a.*.loss": "expected a finite number, got nan, 2 times",
        "b.*": "expected a finite number, got inf",
    }


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "full"), OSError(errno.EMFILE, "files")], ids=repr)
def test_what_the_system_lacks_says_nothing_about_a_network(error: Exception) -> None:
    def lacking() -> None:
        raise error

    saying = Saying()
    with pytest.raises(type(error)):
        saying.failures.attempt("result", lacking, None)
    assert saying.failures.rows == []
