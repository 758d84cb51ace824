"""Networks beside classification, from ten lines of Python to a smaller network, its metric and ONNX: one whole run of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from search.compress import compress
from spaces.execution.batch import named_tensors
from spaces.execution.forward import call, tensors_in

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

SAMPLES = 96


def images(seed: int, channels: int = 1) -> Tensor:
    """Return images of 8 x 8 pixels with a bright square of 4 x 4 each."""
    generator = torch.Generator().manual_seed(seed)
    found = 0.1 * torch.randn(SAMPLES, channels, 8, 8, generator=generator)
    for image, (top, left) in zip(found, torch.randint(0, 5, (SAMPLES, 2), generator=generator).tolist(), strict=True):
        image[:, top : top + 4, left : left + 4] += 1.0
    return found


class Convolutions(nn.Module):
    """Two convolutions of 8 channels, and what follows."""

    def __init__(self, *head: nn.Module, channels: int = 1) -> None:
        super().__init__()
        layers = (nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(*head)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(images))
        return outputs


def pooled(outputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, outputs)]


class Pair(nn.Module):
    """Tells two images that are alike from others."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Convolutions(*pooled(6))
        self.head = nn.Linear(6, 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        outputs: Tensor = self.head((self.tower(first) - self.tower(second)).abs())
        return outputs


class DiffusionStep(nn.Module):
    """Predicts the noise in an image at a time step, an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 8, 3, padding=1)
        self.times = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8))
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.leave = nn.Conv2d(12, 1, 3, padding=1)

    def forward(self, image: Tensor, time: Tensor) -> dict[str, Tensor]:
        hidden = F.silu(self.enter(image) + self.times(time)[:, :, None, None])
        return {"noise": self.leave(F.silu(self.inner(hidden)))}


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    Attributes:
        model: Its network.
        data: Samples by seed.
        loss: Loss; None for cross-entropy.
        score: Metric that accumulates; None for the loss.
        metric: Name of the metric in report.json.
    """

    model: Callable[[], nn.Module]
    data: Callable[[int], Any]
    loss: Callable[[Any, Any], Tensor] | None = None
    score: Mapping[str, Any] | None = None
    metric: str = "loss"


def segmented(seed: int) -> TensorDataset:
    given = images(seed)
    return TensorDataset(given, (given[:, 0] > 0.5).long())


def counted(seed: int) -> TensorDataset:
    given = images(seed) * torch.rand(SAMPLES, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(given, given.sum((1, 2, 3), keepdim=False)[:, None] / 16)


def labelled(seed: int) -> TensorDataset:
    given = images(seed)
    halves = given[:, 0, :4].mean((1, 2)), given[:, 0, :, :4].mean((1, 2)), given[:, 0, 4:].mean((1, 2))
    return TensorDataset(given, torch.stack([half > 0.2 for half in halves], 1).long())


def paired(seed: int) -> list[Any]:
    given = images(seed)
    alike = torch.arange(SAMPLES) % 2
    other = torch.where(alike[:, None, None, None] == 1, given, given.roll(1, 0))
    return [((one, two), int(same)) for one, two, same in zip(given, other, alike, strict=True)]


def noised(seed: int) -> list[Any]:
    given, generator = images(seed), torch.Generator().manual_seed(seed)
    noise, times = torch.randn(given.shape, generator=generator), torch.randint(0, 10, (SAMPLES,), generator=generator)
    mixed = given + noise * times[:, None, None, None] / 10
    return [({"image": one, "time": time}, part) for one, time, part in zip(mixed, times, noise, strict=True)]


KINDS: dict[str, Kind] = {
    "segmentation": Kind(
        lambda: Convolutions(nn.Conv2d(8, 2, 1)),
        segmented,
        score={"name": "torchmetrics.classification.MulticlassJaccardIndex", "arguments": {"num_classes": 2}},
        metric="multiclass_jaccard_index",
    ),
    "regression": Kind(
        lambda: Convolutions(*pooled(1)),
        counted,
        loss=lambda outputs, targets: (outputs - targets).square().flatten(),
        score={"name": "torchmetrics.regression.R2Score", "unit": "share of the variance"},
        metric="r2_score",
    ),
    "multi-label": Kind(
        lambda: Convolutions(*pooled(3)),
        labelled,
        loss=lambda outputs, targets: F.binary_cross_entropy_with_logits(outputs, targets.float()),
        score={"name": "torchmetrics.classification.MultilabelF1Score", "arguments": {"num_labels": 3}},
        metric="multilabel_f1_score",
    ),
    "pair": Kind(Pair, paired, metric="top1"),
    "diffusion step": Kind(
        DiffusionStep, noised, loss=lambda outputs, targets: (outputs["noise"] - targets).square().mean((1, 2, 3))
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_it_becomes_smaller_from_ten_lines_of_python(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    kind = KINDS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.model()
    train, search = (DataLoader(kind.data(seed), batch_size=24) for seed in (0, 1))
    training = {"epochs": 6, "batch_size": 24, "optimizer": {"name": "adam", "lr": 5e-3}}
    searching = {
        "space": "channel_mask",
        "algorithm": {"name": "random", "evaluations": 3},
        "evaluate": ["accuracy", "cost"],
        "objectives": {kind.metric: "minimize" if kind.metric == "loss" else "maximize"},
        "target": {"macs": "<= 70%"},
    }
    stages = [{"train": training}, {"search": searching}, {"retrain": training}, {"export": {"formats": ["onnx"]}}]
    given = {"target": {}, "folder": tmp_path / "run", "stages": stages, "quiet": True}
    made = compress(model, train, search, loss=kind.loss, score=kind.score, **given)  # type: ignore[arg-type]
    for role in ("reference", "result"):
        row = made.report[role]
        found = {"top1": row["top1"], "loss": row["loss"], **row["metrics"]}[kind.metric]
        assert np.isfinite(found)
    assert made.report["result"]["macs"] <= 0.7 * made.report["reference"]["macs"]
    inputs, _ = next(iter(search))
    batch = tuple(inputs) if isinstance(inputs, list) else inputs
    session = onnxruntime.InferenceSession(str(made.folder / "best" / "model.onnx"))
    feed = {place.name: entry.numpy() for place, (_, entry) in zip(session.get_inputs(), named_tensors(batch), strict=True)}
    with torch.no_grad():
        (expected,) = tensors_in(call(made.model, batch))
    np.testing.assert_allclose(session.run(None, feed)[0], expected.numpy(), atol=1e-4)
    assert compress(model, train, search, loss=kind.loss, score=kind.score, **given).report == made.report  # type: ignore[arg-type]
