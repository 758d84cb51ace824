"""Metrics measured in parts by real Ray workers, their states sent to the driver, against one pass over the whole split."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

from evaluators.meters import ImportedMeter, Meter, MeterSettings, Perplexity
from evaluators.summed_meters import ExplainedVariance, LabelsF1, MeanIntersectionOverUnion
from search.executors.ray_cluster import Share, connect
from search.executors.ray_settings import RaySettings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SAMPLES, BATCH = 24, 3
Split = tuple[Any, Any]


def logits(*shape: int, classes: int, seed: int = 0) -> Split:
    """Return logits of shape ``(SAMPLES, classes, *shape)`` and classes of shape ``(SAMPLES, *shape)``."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(SAMPLES, classes, *shape, generator=generator)
    return outputs, torch.randint(0, classes, (SAMPLES, *shape), generator=generator)


def boxes() -> Split:
    """Return found and true boxes of drawn sizes."""
    sizes = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(4)).tolist()
    found = [
        {
            "boxes": torch.tensor([[0.0, 0.0, 8.0 + 8.0 * size, 10.0]]),
            "scores": torch.tensor([size]),
            "labels": torch.tensor([place % 2]),
        }
        for place, size in enumerate(sizes)
    ]
    return found, [
        {"boxes": torch.tensor([[0.0, 0.0, 12.0, 10.0]]), "labels": torch.tensor([place % 2])} for place in range(SAMPLES)
    ]


def text() -> Split:
    outputs, targets = logits(5, classes=7, seed=2)
    return outputs.movedim(1, 2).contiguous(), targets


def numbers() -> Split:
    outputs, _ = logits(classes=2, seed=3)
    return outputs, outputs + torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(5))


def labels() -> Split:
    outputs, _ = logits(classes=3, seed=6)
    return outputs, torch.randint(0, 2, (SAMPLES, 3), generator=torch.Generator().manual_seed(7))


def imported(name: str, key: str | None = None, **arguments: Any) -> Callable[[], Meter]:
    return lambda: ImportedMeter(MeterSettings(f"torchmetrics.{name}", arguments, key=key))


KINDS: Mapping[str, tuple[Callable[[], Meter], Callable[[], Split]]] = {
    "F1 of torchmetrics": (
        imported("classification.MulticlassF1Score", num_classes=4, average="macro"),
        lambda: logits(classes=4),
    ),
    "mIoU of torchmetrics": (
        imported("classification.MulticlassJaccardIndex", num_classes=3),
        lambda: logits(4, 4, classes=3),
    ),
    "mAP": (imported("detection.MeanAveragePrecision", key="map"), boxes),
    "F1": (LabelsF1, labels),
    "mIoU": (MeanIntersectionOverUnion, lambda: logits(4, 4, classes=3)),
    "R2": (ExplainedVariance, numbers),
    "perplexity": (Perplexity, text),
}


class Worker:
    """Measures the batches of a split that are its own; an actor, in a process of its own."""

    def measure(self, make: Callable[[], Meter], split: Split, places: list[int]) -> tuple[Meter, int]:
        """Return the state after the batches that begin at ``places``, and the number of the process."""
        meter, (outputs, targets) = make(), split
        for place in places:
            meter.update(outputs[place : place + BATCH], targets[place : place + BATCH])
        return meter, os.getpid()


@pytest.fixture(scope="module")
def actors() -> Iterator[list[Any]]:
    """Start a cluster with a CPU for each of four workers, and the workers."""
    import ray

    settings = RaySettings(workers=4)
    connect(settings, Share.of(settings, threads=1))
    yield [ray.remote(Worker).options(num_cpus=1).remote() for _ in range(4)]
    ray.shutdown()


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_states_of_ray_workers_merge_into_the_metric_of_one_pass(actors: list[Any], kind: str, workers: int) -> None:
    import ray

    if "torchmetrics" in kind or kind == "mAP":
        pytest.importorskip("torchmetrics")
    if kind == "mAP":
        pytest.importorskip("pycocotools")
    make, drawn = KINDS[kind]
    split = drawn()
    whole = make()
    whole.update(*split)
    places = list(range(0, SAMPLES, BATCH))
    tasks = [actor.measure.remote(make, split, places[number::workers]) for number, actor in enumerate(actors[:workers])]
    found = ray.get(tasks)
    processes = {process for _, process in found}
    assert len(processes) == workers
    assert os.getpid() not in processes
    merged = make()
    for part, _ in found:
        merged.merge(part)
    # Counts are exact; sums of floating-point numbers are rounded in another order.
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-9)
