"""Standard errors by bootstrap: against formulas, repeatable, within their time, and not told where they are not known."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluators.meters import Meter, MeterError, Perplexity
from evaluators.tasks import bootstrap
from evaluators.tasks.bootstrap import Bootstrap
from evaluators.tasks.loader_task import LoaderTask
from evaluators.tasks.measure import Measured, measure, measure_with_errors


class Share(Meter):
    """Share of right answers, whose standard error has a formula."""

    def __init__(self) -> None:
        self.hits, self.seen = 0.0, 0

    def update(self, outputs: Any, targets: Any) -> None:
        self.hits += float((outputs.argmax(1) == targets).sum())
        self.seen += len(targets)

    def merge(self, other: Any) -> None:
        self.hits, self.seen = self.hits + other.hits, self.seen + other.seen

    def compute(self) -> float:
        if not self.seen:
            raise MeterError("nothing seen")
        return self.hits / self.seen


class Last(Share):
    """The share of the last batch, which does not merge."""

    def merge(self, other: Any) -> None:
        self.hits, self.seen = other.hits, other.seen


def answers(samples: int) -> tuple[Tensor, Tensor]:
    """Return logits and classes; the first half, all of class 0, is answered right more often than the second."""
    generator = torch.Generator().manual_seed(samples)
    targets = (torch.arange(samples) >= samples // 2).long()
    right = torch.rand(samples, generator=generator) < torch.where(targets == 0, 0.9, 0.5)
    return nn.functional.one_hot(torch.where(right, targets, 1 - targets), 2).float(), targets


def found(samples: int, make: type[Meter] = Share, batch: int = 64) -> tuple[Bootstrap, dict[str, float], float]:
    outputs, targets = answers(samples)
    made = Bootstrap(lambda: {"share": make()}, samples)
    whole = make()
    for first in range(0, samples, batch):
        taken, expected = outputs[first : first + batch], targets[first : first + batch]
        whole.update(taken, expected)
        made.add(taken, expected, len(taken))
    return made, made.errors({"share": whole.compute()}), whole.compute()


@pytest.mark.parametrize("samples", [60, 500, 3000])
def test_the_error_is_that_of_the_formula_also_where_samples_are_sorted_and_share_parts(samples: int) -> None:
    made, errors, share = found(samples)
    assert made.resamples == bootstrap.RESAMPLES
    assert errors["share"] == pytest.approx(math.sqrt(share * (1 - share) / samples), rel=0.2)
    assert found(samples, batch=17)[1] == errors


def test_what_is_not_known_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(80, Last)[1] == {}
    made = Bootstrap(lambda: {"share": Share()}, 4)
    made.add(torch.ones(8, 2), torch.zeros(4, dtype=torch.long), 4)
    assert made.errors({"share": 0.5}) == {}
    monkeypatch.setattr(bootstrap, "SECONDS", 0.0)
    made, errors, _ = found(80)
    assert (errors, made.resamples) == ({}, 0)


def test_fewer_resamples_are_taken_where_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(bootstrap.time, "perf_counter", lambda: float(next(ticks)))
    made, errors, _ = found(40)
    assert bootstrap.FEWEST < made.resamples < bootstrap.RESAMPLES
    assert errors["share"] > 0.0


def test_of_text_the_error_of_the_perplexity_is_that_of_the_mean_loss_times_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(300, 5, 7, generator=generator), torch.randint(0, 7, (300, 5), generator=generator)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(300, 5).mean(1)
    made = Bootstrap(lambda: {"perplexity": Perplexity()}, 300)
    made.add(logits, targets, 300)
    whole = math.exp(float(losses.mean()))
    expected = whole * float(losses.std()) / math.sqrt(300)
    assert made.errors({"perplexity": whole})["perplexity"] == pytest.approx(expected, rel=0.2)


class Given(nn.Module):
    """Gives its inputs, times one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs


def measured(**options: Any) -> tuple[LoaderTask, Measured]:
    outputs, targets = answers(90)
    samples = [(outputs[first : first + 30], targets[first : first + 30]) for first in range(0, 90, 30)]
    task = LoaderTask(Given(), samples, samples, samples, **options)
    model = task.reference_model()
    whole = measure_with_errors(model, task, "test", batch_size=40)
    assert whole.values == measure(model, task, "test", batch_size=40)
    return task, whole


def test_scores_of_samples_have_the_error_of_a_mean_and_a_batchs_mean_has_none() -> None:
    share = measured()[1]
    value = share.values["top1"]
    assert share.standard_errors == {"top1": pytest.approx(math.sqrt(value * (1 - value) / 89))}
    assert share.resamples is None
    one = nn.functional.cross_entropy
    by_sample = measured(loss=lambda outputs, targets: one(outputs, targets, reduction="none"))[1]
    assert set(by_sample.standard_errors) == {"loss"}
    assert measured(loss=one)[1].standard_errors == {}


def test_a_metric_of_torchmetrics_has_an_error_by_bootstrap() -> None:
    pytest.importorskip("torchmetrics")
    arguments: Mapping[str, Any] = {"num_classes": 2, "average": "micro"}
    task, whole = measured(score={"name": "torchmetrics.classification.MulticlassF1Score", "arguments": arguments})
    value = whole.values[task.score_name]
    assert whole.standard_errors[task.score_name] == pytest.approx(math.sqrt(value * (1 - value) / 90), rel=0.2)
    assert whole.resamples == bootstrap.RESAMPLES
    assert re.fullmatch(r"[a-z0-9_]+", task.score_name)
