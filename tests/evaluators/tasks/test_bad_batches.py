"""Batches that don't fit those before: refused with the batch, the entry, and what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evaluators.tasks.loader_samples import LoaderError
from evaluators.tasks.loader_task import LoaderTask
from evaluators.training.loop import DivergedError, train
from evaluators.training.settings import TrainingSettings


class Sum(nn.Module):
    """Takes one or two entries, by place or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, rows: Tensor, extra: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layer(rows if extra is None else rows + extra)
        return logits


def rows(count: int = 8, width: int = 4) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


def classes(count: int = 8) -> Tensor:
    return torch.arange(count) % 3


def good(**changed: Any) -> tuple[dict[str, Any], Any]:
    return {"rows": rows(), "extra": rows()} | changed, classes()


WITHOUT: tuple[dict[str, Any], Any] = ({"rows": rows()}, classes())
HELD: dict[str, tuple[Any, Any, str]] = {
    "an entry that goes": (good(), WITHOUT, r"batch 2 of 8 samples: expected entry extra of the inputs .*\(N, 4\); got none"),
    "another container": (
        good(),
        (rows(), classes()),
        r"batch 2 .*entry rows of the inputs as in batch 0, float32 .*; got none",
    ),
    "another type": (
        good(),
        good(extra=rows().long()),
        r"entry extra .* float32 of shape \(N, 4\); got int64 of shape \(N, 4\)",
    ),
    "another width": (good(), good(extra=rows(8, 1)), r"entry extra .*\(N, 4\); got float32 of shape \(N, 1\)"),
    "None that becomes a tensor": (good(extra=None), good(), r"entry extra of the inputs as in batch 0, none; got float32"),
    "no dimension": (good(), good(extra=torch.tensor(1.0)), r"entry extra .*; got float32 of shape \(\)"),
    "no sample": (
        good(),
        (good(rows=rows(0))[0], classes(0)),
        r"batch 2 of 0 samples: expected at least one sample; got .*\(0, 4\)",
    ),
    "lengths that differ": (
        ((rows(), rows()), classes()),
        ((rows(), rows(5)), classes()),
        r"entry 1 .*; got float32 of shape \(5, 4\)",
    ),
    "targets of another count": (
        good(),
        (good()[0], classes(5)),
        r"expected the targets .* int64 of shape \(N,\); got .*\(5,\)",
    ),
    "targets of another type": (good(), (good()[0], classes() / 2), r"expected the targets .*; got float32 of shape \(N,\)"),
}


@pytest.mark.parametrize("kind", HELD)
def test_a_list_whose_batches_differ_is_refused_with_batch_and_entry(kind: str) -> None:
    usual, other, message = HELD[kind]
    with pytest.raises(LoaderError, match=f"the loader 'train': .*{message}"):
        LoaderTask(Sum(), [usual, usual, other, usual], [usual, usual])


def test_a_last_batch_may_be_smaller_and_lists_of_any_size() -> None:
    def batch(count: int) -> Any:
        return {"rows": rows(count), "extra": None}, classes(count)

    assert LoaderTask(Sum(), [batch(8), batch(3)], [batch(8)]).size("train") == 11


USUAL = {"rows": torch.ones(4), "extra": torch.ones(4)}
LATE: dict[str, tuple[Any, str]] = {
    "an entry that goes": (
        ({"rows": torch.ones(4)}, 1),
        r"sample 6 of a batch of 7: expected entry extra of the inputs as in its sample 0, float32 of shape \(4,\); got none",
    ),
    "another width": ((USUAL | {"extra": torch.ones(1)}, 1), r"sample 6 .*entry extra .*; got float32 of shape \(1,\)"),
    "a class too many": ((USUAL, 3), r"a batch of the loader 'train': classes from 1 to 3, and the network gives 3 outputs"),
}


@pytest.mark.parametrize("kind", LATE)
def test_a_loader_whose_later_samples_differ_is_refused_when_they_come(kind: str) -> None:
    last, message = LATE[kind]
    usual: Any = [(USUAL, 1)] * 20
    task = LoaderTask(Sum(), DataLoader([*usual, last], batch_size=5), DataLoader(usual, batch_size=5))
    with pytest.raises(LoaderError, match=message):
        list(task.batches("train", 7))


def test_whole_batches_of_another_type_are_refused() -> None:
    def typed(batch: list[Any]) -> Any:
        inputs, targets = torch.stack([one for one, _ in batch]), torch.tensor([target for _, target in batch])
        return inputs if inputs.all() else inputs.long(), targets

    usual: Any = [(torch.ones(4), 1)] * 20
    loader = DataLoader([*usual, (torch.zeros(4), 1)], batch_size=5, collate_fn=typed)
    task = LoaderTask(Sum(), loader, DataLoader(usual, batch_size=5))
    with pytest.raises(LoaderError, match=r"a batch of the loader 'train': expected the inputs .* float32 .*; got int64"):
        list(task.batches("train", 7))


def test_a_batch_that_holds_no_number_is_named_in_training() -> None:
    bad = (good(extra=rows() * torch.nan)[0], classes())
    task = LoaderTask(Sum(), [good(), good(), bad], [good(), good()])
    settings = TrainingSettings(epochs=1, batch_size=8)
    with pytest.raises(DivergedError, match=r"entry inputs.extra of shape \(8, 4\) holds \d+ values that are infinite or not"):
        train(task.build(), task, settings, seed=0, device=torch.device("cpu"))
