"""Losses that can't guide a search and scores at chance, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from evaluators.meters import ImportedMeter, Meter, MeterSettings
from evaluators.tasks.loader_task import LoaderTask
from search.config.loading import configure
from search.pipeline.plausibility import require_informative_loss, score_at_chance
from search.pipeline.preflight import preflight
from spaces.errors import SecateursError, UnsupportedModelError

SEARCH = {
    "space": {"name": "channel_mask"},
    "algorithm": {"name": "random", "evaluations": 2},
    "evaluate": [{"accuracy": {"split": "search"}}, "cost"],
    "objectives": {"top1": "maximize"},
    "target": {"macs": "<= 60%"},
}


class Bytes(nn.Module):
    """Makes numbers of bytes itself."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.is_floating_point() else images.float() / 255


def task(samples: int, trained: bool, **options: Any) -> LoaderTask:
    """Return a task with classes that the mean of an image tells, and a network that knows them or not."""
    torch.manual_seed(0)
    labels = torch.arange(samples) % 4
    images = (60 * labels[:, None, None, None] + torch.randint(0, 40, (samples, 1, 6, 6))).to(torch.uint8)
    model = nn.Sequential(Bytes(), nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100 if trained else 0):
        optimizer.zero_grad()
        F.cross_entropy(model(images[:100]), labels[:100]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loader = DataLoader(TensorDataset(images, labels), batch_size=20)
    return LoaderTask(model, loader, loader, **options)


def checked(given: LoaderTask, *before: dict[str, Any], **options: Any) -> list[str]:
    config = configure({"name": "x", "seed": 0, "stages": [*before, {"search": {**SEARCH, **options}}]}, given)
    return list(preflight(config))


def test_a_network_that_scores_at_chance_is_no_start_of_a_search() -> None:
    with pytest.raises(UnsupportedModelError, match=r"top1 0\.\d+ .* on 400 samples .* chance.*weights are loaded.*loss= and"):
        checked(task(500, trained=False))
    assert not any("chance" in line for line in checked(task(500, trained=True)))


def test_a_score_at_chance_is_noted_where_a_training_comes_first_or_samples_are_few() -> None:
    epoch = {"epochs": 1, "batch_size": 10}
    assert any("no better than chance" in line for line in checked(task(500, trained=False), {"train": epoch}))
    assert any("no better than chance" in line for line in checked(task(500, trained=False), training=epoch))
    assert any("no better than chance" in line for line in checked(task(60, trained=False)))


def test_a_constant_answer_is_at_chance_and_a_weak_one_is_not() -> None:
    given = task(400, trained=False)
    constant = nn.Sequential(Bytes(), nn.Flatten(), nn.Linear(36, 4))
    nn.init.zeros_(constant[2].weight)
    found = score_at_chance(constant, given)
    assert found == (0.25, 400)

    class Weak(nn.Module):
        """Right on every sample of class 0, and on chance else."""

        def forward(self, images: Tensor) -> Tensor:
            dark = images.float().mean((1, 2, 3)) < 50
            return F.one_hot(torch.where(dark, 0, 1), 4).float()

    assert score_at_chance(Weak(), given) is None


def test_a_score_that_is_wrongly_turned_is_at_chance() -> None:
    given = task(400, trained=True, loss=F.cross_entropy, score=lambda o, t: (o.argmax(1) != t).float())
    assert score_at_chance(given.reference_model(), given) is not None


OUTPUTS, TARGETS = torch.tensor([[1.0, -1.0], [0.5, 2.0]]), torch.tensor([0, 1])


def losing(loss: Any) -> Any:
    given = task(8, trained=False)
    given.loss = loss  # type: ignore[method-assign]
    return given


def test_a_loss_that_is_the_same_for_all_answers_is_refused() -> None:
    for loss in (lambda o, t: torch.zeros(()), lambda o, t: (o * 0).sum() + 3, lambda o, t: F.cross_entropy(o[:, :1], t * 0)):
        with pytest.raises(UnsupportedModelError, match=r"the loss is -?[03] whatever the network answers.*pass loss="):
            require_informative_loss(losing(loss), OUTPUTS, TARGETS)


def test_a_loss_without_a_gradient_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"no gradient.*pass loss="):
        require_informative_loss(losing(lambda o, t: (o.argmax(1) != t).float().mean()), OUTPUTS, TARGETS)


def test_certain_answers_are_no_sign_of_a_wrong_loss() -> None:
    certain = torch.tensor([[1000.0, -1000.0]] * 2)
    assert float(F.cross_entropy(certain, torch.tensor([0, 0]))) == 0.0
    require_informative_loss(losing(F.cross_entropy), certain, torch.tensor([0, 0]))
    # Log-probabilities of a loss that takes nothing else.
    require_informative_loss(losing(F.nll_loss), torch.log_softmax(OUTPUTS, 1), TARGETS)
    require_informative_loss(losing(F.mse_loss), torch.zeros(2, 1), torch.zeros(2, 1))


def test_inputs_that_the_network_can_not_take_are_named_with_their_type(tmp_path: Path) -> None:
    images, labels = torch.zeros(8, 1, 6, 6, dtype=torch.uint8), torch.arange(8) % 3
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UnsupportedModelError, match=r"uint8, as the data set gives them \(float32"):
        checked(LoaderTask(model, loader, loader))


class Uneven(LoaderTask):
    """A task whose batches of a split are others than those of the search split."""

    def __init__(self, change: Callable[[Tensor, Tensor], tuple[Any, Any]], other: str = "train") -> None:
        given = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), batch_size=4)
        super().__init__(nn.Linear(4, 3), given, given)
        self._change, self._other = change, other

    def batches(self, split: Any, *args: Any, **options: Any) -> Any:
        for inputs, targets in super().batches(split, *args, **options):
            yield self._change(inputs, targets) if split == self._other else (inputs, targets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda inputs, targets: ({"ids": inputs}, targets),
            r"'train': expected the inputs as in the split search",
        ),
        (lambda inputs, targets: (inputs, targets.float()), r"'train': expected the targets .* int64 .*; got float32"),
        (lambda inputs, targets: (inputs[:, :2], targets), r"fails on a batch of the train split, inputs of shape \(2, 2\)"),
    ],
)
def test_a_training_batch_that_is_another_is_named_before_a_run(change: Any, message: str) -> None:
    with pytest.raises(SecateursError, match=message):
        checked(Uneven(change), {"train": {"epochs": 1, "batch_size": 4}})


def test_a_test_batch_that_is_another_is_named_with_what_was_expected() -> None:
    with pytest.raises(SecateursError, match=r"'test': expected the inputs as in the split search, float32"):
        checked(Uneven(lambda inputs, targets: ({"ids": inputs}, targets), "test"))
    message = r"fails on a batch of the test split, .* targets of shape \(2,\): .*; expected .* outputs of shape \(2, 3\)"
    with pytest.raises(SecateursError, match=message):
        checked(Uneven(lambda inputs, targets: (inputs, targets + 7), "test"))


class Metered(LoaderTask):
    """A task with a metric that takes outputs of the shape of the targets."""

    def meters(self) -> Mapping[str, Meter]:
        return {"sums": ImportedMeter(MeterSettings("tests.evaluators.test_meters.Sums"))}


def test_a_metric_that_can_not_take_the_outputs_is_named() -> None:
    given = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), batch_size=4)
    with pytest.raises(SecateursError, match=r"Sums can't take outputs of shape \(\d+, 3\) and targets of shape \(\d+,\)"):
        checked(Metered(nn.Linear(4, 3), given, given))
