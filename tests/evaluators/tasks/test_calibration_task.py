"""A task of inputs without labels: what is held back, answers as targets, agreement, and labels for the report alone."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from evaluators.tasks.calibration_task import CalibrationTask, CalibrationWarning
from evaluators.tasks.loader_samples import LoaderError
from evaluators.tasks.measure import measure


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


def images(count: int = 160) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def held_back(task: CalibrationTask) -> Tensor:
    return torch.cat([inputs for inputs, _ in task.batches("test", 50)])


def rows(inputs: Tensor) -> set[tuple[float, ...]]:
    return {tuple(one.flatten().tolist()) for one in inputs}


GIVEN = {
    "inputs": lambda x: DataLoader(TensorDataset(x), batch_size=20),
    "pairs": lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=20, shuffle=True, drop_last=True),
    "a list of batches": lambda x: list(torch.split(x, 30)),
    "a list of pairs": lambda x: [(one, "anything") for one in torch.split(x, 30)],
    "samples of a data set": lambda x: DataLoader(list(x), batch_size=7),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_a_quarter_of_at_least_64_is_held_back_by_seed_and_searches_never_see_it(kind: str) -> None:
    x = images()
    task, again, other = (CalibrationTask(network(), GIVEN[kind](x), seed=seed) for seed in (0, 0, 1))
    assert (task.size("train"), task.size("search"), task.size("test")) == (96, 96, 64)
    seen = rows(torch.cat([inputs for inputs, _ in task.batches("train", 10)]))
    assert seen | rows(held_back(task)) == rows(x)
    assert not seen & rows(held_back(task))
    assert rows(held_back(task)) == rows(held_back(again)) != rows(held_back(other))
    assert task.fingerprint == again.fingerprint != other.fingerprint
    assert CalibrationTask(network(), GIVEN[kind](images(400))).size("test") == 100


def test_scores_are_the_agreement_with_the_network_itself_and_the_divergence_from_it() -> None:
    task, model = CalibrationTask(network(), [images()]), network()
    assert measure(model, task, "test") == pytest.approx({"agreement": 1.0, "divergence": 0.0, "loss": 0.0}, abs=1e-6)
    with torch.no_grad():
        model[3].bias += torch.tensor([1.0, 0.0, 0.0])
        inputs, (own, changed) = held_back(task), (one(held_back(task)) for one in (network(), model))
        expected = (own.log_softmax(1).exp() * (own.log_softmax(1) - changed.log_softmax(1))).sum(1).mean()
    found = measure(model, task, "test")
    assert found["agreement"] == pytest.approx(float((own.argmax(1) == changed.argmax(1)).float().mean()))
    assert found["divergence"] == pytest.approx(float(expected), rel=1e-4)
    assert len(inputs) == 64
    with torch.no_grad():
        drawn = [dense["dense"] - network()(x) for x, dense in task.batches("train", 10, torch.Generator())]
    assert float(torch.cat(drawn).abs().max()) < 1e-5


def test_outputs_that_are_no_logits_have_a_relative_error_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3)).eval()
    task = CalibrationTask(model, [images()])
    assert (task.score_name, task.score_sign) == ("divergence", -1.0)
    assert measure(task.build(), task, "test") == pytest.approx({"divergence": 0.0, "loss": 0.0}, abs=1e-12)


def test_labels_are_read_for_the_report_alone_and_give_top1() -> None:
    x, labels = images(40), torch.arange(40) % 3
    task = CalibrationTask(network(), [images()], DataLoader(TensorDataset(x, labels), batch_size=8))
    found = measure(network(), task, "test")
    assert found["top1"] == pytest.approx(float((network()(x).argmax(1) == labels).float().mean()))
    assert (found["agreement"], task.size("test")) == (1.0, 40)
    assert set(measure(network(), task, "search")) == {"agreement", "divergence", "loss"}


@pytest.mark.parametrize(("count", "held"), [(100, 64), (60, 30), (127, 64)])
def test_few_samples_are_warned_of_with_the_layer_that_has_the_fewest_rows_for_its_columns(count: int, held: int) -> None:
    with pytest.warns(CalibrationWarning, match=rf"{count} samples .* are few, {held} of them .* the layer '3' is solved on"):
        task = CalibrationTask(network(), [images(count)])
    assert (task.size("test"), task.size("train")) == (held, count - held)
    (line,) = task.check_data()
    assert f"{count - held} rows for its 64 columns, {(count - held) / 64:.2g} for each" in line


def test_enough_samples_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(CalibrationTask(network(), [images(128)]).check_data()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(), "got a Tensor"),
        (iter([images()]), "can be iterated again"),
        ([images(3)], "expected at least 4 samples"),
        ([()], "empty batch"),
        ([("text", 1)], "expected inputs of a tensor|no sample|row"),
    ],
)
def test_what_is_no_calibration_is_refused(given: Any, message: str) -> None:
    with pytest.raises(LoaderError, match=message):
        CalibrationTask(network(), given)
